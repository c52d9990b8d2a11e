"""A small synthetic contest with a truth and predictions of known quality, for the tests of the submissions."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from input.contest import (
    EXAM_LABELS,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    QA_LABELS,
    RIGHT,
    SERIES,
    SLICE_LABEL,
    SOP,
    STUDY,
    TRAIN_COLUMNS,
)
from pipeline import paths
from pipeline.files import sha256
from tests.support.synthetic_exam import CLEAN


def random_labels(exams: int, seed: int, first: int = 0) -> pd.DataFrame:
    """A table with the columns of train.csv: a third of the exams with PE, six slices each, rows shuffled.

    Args:
        exams: number of exams.
        seed: of the random values.
        first: number of the first exam; StudyInstanceUIDs are made from the numbers.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(first, first + exams):
        positive = number % 3 == 0
        exam = dict.fromkeys((*EXAM_LABELS, *QA_LABELS), 0)
        if positive:
            exam |= {LT_1: 1, LEFT: 1, RIGHT: int(generator.integers(2))}
        else:
            exam |= {INDETERMINATE: 1} if number % 7 == 1 else {NEGATIVE: 1}
        for position in range(6):
            ids = {STUDY: f"{number:012x}", SERIES: f"a{number:011x}", SOP: f"b{number:08x}{position:03x}"}
            rows.append({**ids, SLICE_LABEL: int(positive and 2 <= position <= 3), **exam})
    return pd.DataFrame(rows).sample(frac=1, random_state=seed)[list(TRAIN_COLUMNS)].reset_index(drop=True)


def predict(labels: pd.DataFrame, strength: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Exam and slice probabilities; `strength` is the signal in logits (0: noise only)."""
    generator = np.random.default_rng(seed)

    def noisy(truth: pd.Series) -> np.ndarray:
        return 1 / (1 + np.exp(-(strength * (2 * truth.to_numpy() - 1) + generator.normal(-0.5, 1, len(truth)))))

    exams = labels.drop_duplicates(STUDY)[[STUDY, *EXAM_LABELS]].reset_index(drop=True)
    exams = exams.assign(**{label: noisy(exams[label]) for label in EXAM_LABELS})
    # Coherent, like the ensemble's posteriors.
    without_pe = exams[NEGATIVE] + exams[INDETERMINATE]
    exams[INDETERMINATE] = exams[INDETERMINATE] / np.maximum(without_pe, 1)
    exams[NEGATIVE] = exams[NEGATIVE] / np.maximum(without_pe, 1)
    return exams, labels[[STUDY, SOP]].assign(label=noisy(labels[SLICE_LABEL]))


def write_tree(root: Path, train: pd.DataFrame, test: pd.DataFrame) -> None:
    """Write the CSVs of a contest tree and its test truth; no images."""
    (root / "truth").mkdir(parents=True)
    train.to_csv(root / "train.csv", index=False)
    test[[STUDY, SERIES, SOP]].to_csv(root / "test.csv", index=False)
    test.to_csv(root / "truth" / "test_truth.csv", index=False)


def write_ensemble(
    root: Path, train: pd.DataFrame, test: pd.DataFrame, strengths: dict[str, float], *, identity: str = "runs",
    experiment: str = paths.UNNAMED,
) -> None:  # fmt: skip
    """Write the artifacts that the submissions read: prepared tables and the predictions of candidates.

    Args:
        root: the folder of all artifacts (PE_ROOT).
        train, test: tables of `random_labels`.
        strengths: candidate -> strength of its predictions (see `predict`); the strongest is promoted.
        identity: of the ensemble's artifact.
        experiment: its name.
    """
    both = pd.concat(
        [
            train.assign(split="train", fold=train[STUDY].map(lambda study: int(study, 16) % 3)),
            test.assign(split="test", fold=-1),
        ],
        ignore_index=True,
    )
    both["flags"], both["z_mm"] = "", both[SOP].map(lambda sop: 5.0 * int(sop[-3:], 16))
    slices = both[[STUDY, SERIES, SOP, SLICE_LABEL, "split", "z_mm"]].assign(quarantine="")
    slices.loc[3, "quarantine"] = "pixel data truncated"
    links = root / "experiments" / experiment / paths.LINKS
    _write_artifact(links / "prepared", {"exams": both.drop_duplicates(STUDY), "slices": slices}, {})
    _write_artifact(links / "masks", {}, {}, "masks")
    accepted = both[[STUDY, "split"]].drop_duplicates(STUDY).assign(**CLEAN.as_dict())
    _write_artifact(links / "acceptance", {"exams": accepted}, {"training_step_mm": 1.25}, "acceptance")
    distances = both[[STUDY]].drop_duplicates().assign(distance=0.5)
    _write_artifact(links / "novelty", {"exams": distances}, {}, "novelty")
    exam_parts, slice_parts = [], []
    for number, (name, strength) in enumerate(strengths.items()):
        for role, labels in (("oof", train), ("test", test)):
            exams, predicted = predict(labels, strength, seed=10 * number + (role == "test"))
            exam_parts.append(exams.assign(candidate=name, role=role))
            slice_parts.append(predicted.assign(candidate=name, role=role))
    tables = {"exams": pd.concat(exam_parts), "slices": pd.concat(slice_parts)}
    _write_artifact(links / "ensemble", tables, {"promoted": max(strengths, key=strengths.get)}, identity)


def _write_artifact(
    folder: Path, tables: dict[str, pd.DataFrame], metrics: dict[str, object], identity: str = "prepared"
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    files = {f"{name}.parquet": sha256(folder / f"{name}.parquet") for name in tables}
    manifest = {"identity": identity, "inputs": {}, "files": files, "metrics": metrics}
    (folder / "manifest.json").write_text(json.dumps(manifest))
