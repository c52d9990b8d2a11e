"""Assign training exams to cross-validation folds, once for all later stages.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, On the Stratification of Multi-Label Data): the exams
of the rarest label are assigned first, each to the fold that needs it most, so that rare labels such as
acute_and_chronic_pe occur in every fold. All slices of an exam are in one fold, and so are exams that share a group:
those of one patient, or derived from one scan.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from input.contest import EXAM_LABELS, QA_LABELS, STUDY
from pipeline.errors import UserError


def assign_folds(exams: pd.DataFrame, folds: int, seed: int, groups: Mapping[str, str] | None = None) -> pd.Series:
    """Assign every training exam to a fold.

    Args:
        exams: one row per exam: StudyInstanceUID, the nine exam labels, QA labels where available, and q.
        folds: number of folds.
        seed: breaks ties; the order of the rows has no influence.
        groups: StudyInstanceUID -> group; exams of a group share a fold. The group of any other exam is its own UID,
            so a group can be named after the exam that the others are derived from.

    Returns:
        Fold numbers 0 to folds-1, indexed by StudyInstanceUID, in the order of `exams`.

    Raises:
        UserError: fewer than two folds, or fewer groups than folds.
    """
    groups = groups or {}
    group = np.array([groups.get(study, study) for study in exams[STUDY]])
    labels = [label for label in (*EXAM_LABELS, *QA_LABELS) if label in exams]
    # A group has every label that one of its exams has.
    grouped = exams[[*labels, "q"]].groupby(group).agg({**dict.fromkeys(labels, "max"), "q": "mean"})
    if folds < 2 or len(grouped) < folds:
        count = f"{len(exams)} training exams" + (f" in {len(grouped)} groups" if len(grouped) < len(exams) else "")
        raise UserError(
            f"input.folds is {folds} with {count}. Expected at least 2 folds and one exam per fold. "
            "Use another number: --set input.folds=2"
        )
    fold = stratify(strata(grouped), folds, np.random.default_rng(seed))
    return pd.Series(fold, index=grouped.index).reindex(group).set_axis(pd.Index(exams[STUDY])).rename("fold")


def strata(exams: pd.DataFrame) -> np.ndarray:
    """Compute the properties to stratify by: labels, QA labels, and quartiles of the clot burden q.

    q weights the image part of the metric, and the exam labels with the largest weights depend on it.

    Returns:
        (exams, properties) bool.
    """
    columns = [exams[label].to_numpy(dtype=float) > 0.5 for label in (*EXAM_LABELS, *QA_LABELS) if label in exams]
    q = exams["q"].to_numpy(dtype=float)
    if (q > 0).any():
        edges = np.quantile(q[q > 0], (0.25, 0.5, 0.75))
        quartile = np.where(q > 0, np.searchsorted(edges, q, side="left"), -1)
        columns += [quartile == number for number in range(4)]
    return np.stack(columns, axis=1)


def stratify(properties: np.ndarray, folds: int, generator: np.random.Generator) -> np.ndarray:
    """Assign rows to folds so that every property is spread evenly, beginning with the rarest.

    Args:
        properties: (rows, properties) bool.
        folds: number of folds.
        generator: shuffles the rows and breaks ties.

    Returns:
        (rows,) fold numbers, 0 to folds-1; fold sizes differ by a few rows at most.
    """
    rows = len(properties)
    fold = np.full(rows, -1)
    needed_rows = np.full(folds, rows / folds)
    needed = np.repeat(properties.sum(axis=0)[None] / folds, folds, axis=0)
    shuffled = generator.permutation(rows)
    while (fold < 0).any():
        open_rows = shuffled[fold[shuffled] < 0]
        counts = properties[open_rows].sum(axis=0)
        if counts.any():
            rarest = int(np.argmin(np.where(counts > 0, counts, rows + 1)))
            batch, need = open_rows[properties[open_rows, rarest]], needed[:, rarest]
        else:
            batch, need = open_rows, needed_rows
        for row in batch:
            # The fold that needs this property most, then the one with the fewest rows, then a random one.
            choice = np.lexsort((generator.random(folds), -needed_rows, -need))[0]
            fold[row] = choice
            needed_rows[choice] -= 1
            needed[choice, properties[row]] -= 1
    return fold
