"""Inputs for tests of the evidence report: a finished run and two small synthetic exams, one with a hostile name."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.lung_box import Box
from features.store import open_exam, write_exam
from inference.clot_maps import ClotMap
from inference.evidence.exam_cases import UNLABELLED, ExamCase
from inference.evidence.feature_contributions import Contributions
from inference.findings import locate_exam_findings
from input.contest import EXAM_LABELS, INDETERMINATE, NEGATIVE, SOP
from pipeline import paths
from pipeline.settings import InputSettings, Settings, SubmissionsSettings
from submissions.finished_run import Candidates, read_candidates
from tests.support.submission_cases import random_labels, write_ensemble, write_tree

HOSTILE = """<img src=x onerror="document.title='owned'">'"&</script><script>document.title='owned'</script>"""
#: A file name in Latin-1, as Python reads it on a UTF-8 machine.
NOT_UTF8 = "M\udcfcller.dcm"
PLANES, HEIGHT, WIDTH = 12, 40, 60
#: HU of the square in the middle of every plane, whose grey value is known for every window.
MIDDLE_HU = 100
STRENGTHS = {"prior": 0.0, "mobilenetv2": 1.0, "stack": 2.0}


def write_run(folder: Path) -> tuple[Settings, Candidates]:
    """Write a finished ensemble on a small contest below $PE_ROOT, which the caller has set to folder/root."""
    train, test = random_labels(60, seed=1), random_labels(24, seed=2, first=100)
    write_tree(folder / "contest", train, test)
    write_ensemble(folder / "root", train, test, STRENGTHS)
    settings = Settings(
        input=InputSettings(data=str(folder / "contest")), submissions=SubmissionsSettings(bootstrap=50)
    )
    return settings, read_candidates(paths.ensemble_run())


def write_planes(
    store: Path, name: str, *, planes: int = PLANES, shape: tuple[int, int] = (HEIGHT, WIDTH), pixel_mm: float = 1.4
) -> None:
    """Store one exam: air with noise that differs from plane to plane, and a square of MIDDLE_HU in the middle."""
    hu = np.random.default_rng(planes).normal(-800, 60, (planes, *shape))
    hu[:, shape[0] // 4 : 3 * shape[0] // 4, shape[1] // 4 : 3 * shape[1] // 4] = MIDDLE_HU
    box = Box(z0=0, z1=planes, y0=0, y1=shape[0], x0=0, x1=shape[1], middle_x=shape[1] / 2, found=True)
    write_exam(
        store, name, "series", hu.astype(np.int16), z_mm=np.arange(planes) * 5.0, spacing_mm=(pixel_mm,) * 2,
        raw_spacing_mm=(pixel_mm,) * 2, sop_uids=tuple(f"{name}.{row}" for row in range(planes)), box=box,
    )  # fmt: skip
    assert len(open_exam(store, name)) == planes


def exam_case(name: str, title: str, risk: float, **facts: Any) -> ExamCase:
    """A stored exam whose likeliest slice is the eighth."""
    labels = dict.fromkeys(EXAM_LABELS, risk / 2) | {NEGATIVE: 1 - risk, INDETERMINATE: 0.0}
    rows = np.arange(PLANES)
    slices = pd.DataFrame(
        {
            SOP: [f"{name}.{row}" for row in rows],
            "z_mm": rows * 5.0,
            "label": risk * np.exp(-((rows - 7) ** 2) / 8.0),
            "quarantine": "",
        }
    )
    return ExamCase(name=name, title=title, role=UNLABELLED, labels=labels, slices=slices, folds=(0,), **facts)


def with_clot(case: ExamCase, plane: int) -> ExamCase:
    """The same exam with a clot map that has one likely cell, on one plane, and the finding there."""
    probability = np.zeros((PLANES, 5, 8), np.float32)
    probability[plane, 2, 5] = 0.9
    clot = ClotMap(probability, np.array([[8.0, 0, 3.5], [0, 8.0, 3.5]]), 11.2, np.full(PLANES, 5.0), 3.5)
    rows = case.slices.assign(probability=0.5, below_top_mm=np.nan)
    return dataclasses.replace(case, clot=clot, findings=tuple(locate_exam_findings(rows, clot)))


def two_cases() -> list[ExamCase]:
    """A likely PE with a hostile name, a diameter and contributions; and an unlikely PE without."""
    line = {"plane": 4.0, "y0": 10.0, "x0": 12.0, "y1": 20.0, "x1": 30.0}
    numbers = {
        "rv_mm": 41.2,
        "lv_mm": np.nan,
        "noise_hu": 20.0,
        **{f"rv_{name}": value for name, value in line.items()},
    }
    parts = pd.Series({"mean.top_20mm": 1.5, HOSTILE: -0.5})
    contributions = Contributions(0.25, parts, pd.Series(1.0, parts.index))
    first = exam_case(
        "study0", HOSTILE, 0.9, numbers=numbers, flags=("feet_first", HOSTILE), notes=(HOSTILE, NOT_UTF8),
        contributions=contributions, truth=dict.fromkeys(EXAM_LABELS, 1),
    )  # fmt: skip
    return [first, exam_case("study1", "1.2.3", 0.2)]
