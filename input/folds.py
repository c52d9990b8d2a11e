"""Folds, made once on exams and obeyed by every stage to the right.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, On the Stratification of Multi-Label
Data): the rarest label is dealt out first, each of its exams to the fold that wants it most, so rare
labels such as acute_and_chronic_pe reach every fold. An exam is one unit, so its slices stay together, and so are
exams that share a group: those of one patient, or made from one scan.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, QA_LABELS, STUDY
from pipeline.errors import UserError


def assign_folds(exams: pd.DataFrame, folds: int, seed: int, groups: Mapping[str, str] | None = None) -> pd.Series:
    """Assign every training exam to a fold.

    Args:
        exams: StudyInstanceUID, the nine exam labels, the QA labels that are there, and q, a row an exam.
        folds: how many.
        seed: ties are broken by it; the rows' order has no influence.
        groups: StudyInstanceUID -> group; exams of a group share a fold. An exam that is not named is the group of
            its own UID, so a group may be called by the exam that the others were made from.

    Returns:
        Fold numbers 0 to folds-1, indexed by StudyInstanceUID, in the order of `exams`.

    Raises:
        UserError: fewer exams, or groups, than folds, or fewer than two folds.
    """
    groups = groups or {}
    group = np.array([groups.get(study, study) for study in exams[STUDY]])
    labels = [label for label in (*EXAM_LABELS, *QA_LABELS) if label in exams]
    # A group has the labels that any of its exams has.
    dealt = exams[[*labels, "q"]].groupby(group).agg({**dict.fromkeys(labels, "max"), "q": "mean"})
    if folds < 2 or len(dealt) < folds:
        which = f"{len(exams)} training exams" + (f" in {len(dealt)} groups" if len(dealt) < len(exams) else "")
        raise UserError(f"input.folds is {folds}, with {which}: expected at least 2 folds and an exam for each")
    fold = stratify(strata(dealt), folds, np.random.default_rng(seed))
    return pd.Series(fold, index=dealt.index).reindex(group).set_axis(pd.Index(exams[STUDY])).rename("fold")


def strata(exams: pd.DataFrame) -> np.ndarray:
    """The properties to spread evenly, (exams, properties) bool: labels, QA labels, and the clot burden's quartiles.

    The burden q weighs the metric's image part, and the heaviest labels depend on it.
    """
    columns = [exams[label].to_numpy(dtype=float) > 0.5 for label in (*EXAM_LABELS, *QA_LABELS) if label in exams]
    q = exams["q"].to_numpy(dtype=float)
    if (q > 0).any():
        edges = np.quantile(q[q > 0], (0.25, 0.5, 0.75))
        quartile = np.where(q > 0, np.searchsorted(edges, q, side="left"), -1)
        columns += [quartile == each for each in range(4)]
    return np.stack(columns, axis=1)


def stratify(properties: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Deal rows into folds so that every property, the rarest first, is spread evenly.

    Args:
        properties: (rows, properties) bool.
        folds: how many.
        generator: shuffles the rows and breaks ties.

    Returns:
        (rows,) fold numbers; fold sizes differ by a few rows at most.
    """
    rows = len(properties)
    fold = np.full(rows, -1)
    wanted_rows = np.full(folds, rows / folds)
    wanted = np.repeat(properties.sum(axis=0)[None] / folds, folds, axis=0)
    shuffled = generator.permutation(rows)
    while (fold < 0).any():
        open_rows = shuffled[fold[shuffled] < 0]
        counts = properties[open_rows].sum(axis=0)
        if counts.any():
            rarest = int(np.argmin(np.where(counts > 0, counts, rows + 1)))
            batch, desire = open_rows[properties[open_rows, rarest]], wanted[:, rarest]
        else:
            batch, desire = open_rows, wanted_rows
        for row in batch:
            # Most wanted for this property, then the emptiest fold, then chance.
            choice = np.lexsort((generator.random(folds), -wanted_rows, -desire))[0]
            fold[row] = choice
            wanted_rows[choice] -= 1
            wanted[choice, properties[row]] -= 1
    return fold
