"""Generation of a whole contest tree: exams as independent jobs, then the CSV files and the ground truth.

<tree>/train|test/<Study>/<Series>/<SOP>.dcm
<tree>/train.csv  test.csv  sample_submission.csv
<tree>/truth/test_truth.csv        labels of the test exams, in the columns of train.csv
<tree>/truth/exams.csv             one row per exam: labels, diameters, contrast, noise, quirks
<tree>/truth/clots.csv             one row per clot: kind, region, artery diameter, attenuation
<tree>/truth/masks/<Study>.npz     clot codes and artery mask (z, y, x), canonical orientation
<tree>/truth/exams/<Study>.json    the last file of an exam: marks it as finished, so a killed run resumes
"""

import dataclasses
import os
import re
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd

from input.contest import ID_COLUMNS, SERIES, SLICE_LABEL, SOP, STUDY, TRAIN_COLUMNS
from input.contest_tree import submission_ids
from input.phantom.dicom_quirks import Quirks, sample_quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import SyntheticExam, generate_exam, streams
from input.phantom.labels import ExamState, label_row, sample_states
from pipeline.artifact import Artifact
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import read_json, write_bytes, write_json, write_table
from pipeline.jobs import run_jobs
from pipeline.settings import PhantomSettings

#: Format version by difficulty; raise it when the same settings generate different bytes.
VERSIONS = {"easy": 1, "medium": 2, "contest": 2}


def generate_contest(
    settings: PhantomSettings, tree: Path, *, force: bool, workers: int = 0, shared: bool = False
) -> None:
    """Generate the contest of `settings` into `tree`, unless it is up to date.

    Exams are generated in parallel, and an exam is finished when its truth file exists, so a killed run resumes. The
    same settings give the same bytes.

    Args:
        settings: the [phantom] section.
        tree: root of the contest tree; emptied first when it was generated with other settings, unless it is shared.
        force: generate everything again.
        workers: number of processes; 0 means one per core.
        shared: `tree` is an experiment's link to a tree that other experiments may use too.

    Raises:
        UserError: settings out of range, all of them at once.
    """
    check_settings(settings)
    artifact = contest_artifact(settings, tree, shared=shared)
    if artifact.is_current(force=force):
        return
    with artifact.building(fresh=force or bool(artifact.missing_files())) as tree:
        for leftover in tree.glob("*/.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        exams = plan_contest(settings)
        unfinished = [exam for exam in exams if not _record_path(tree, exam[2]).is_file()]
        if len(unfinished) < len(exams):
            say(f"input/raw: resuming, {len(exams) - len(unfinished)} of {len(exams)} exams are finished")
        jobs = [(settings, tree, *exam) for exam in unfinished]
        for _ in run_jobs(write_synthetic_exam, jobs, desc="generating exams", workers=workers):
            pass
        records = [read_json(_record_path(tree, study)) for _, _, study, _ in exams]
        rows, metrics = write_tables(settings.seed, tree, records)
        artifact.finish(rows=rows, metrics=metrics)
        say(f"input/raw: {rows['train exams']} training and {rows['test exams']} test exams, "
            f"{metrics['positive_slice_share']:.1%} of the slices positive")  # fmt: skip


def contest_artifact(settings: PhantomSettings, tree: Path, *, shared: bool) -> Artifact:
    """The artifact that `generate_contest` makes; the arguments are the same."""
    identity = {key: value for key, value in dataclasses.asdict(settings).items() if key != "name"}
    return Artifact(
        tree, "input/raw", version=VERSIONS[settings.difficulty], settings=identity, inputs={}, shared=shared
    )


def check_settings(settings: PhantomSettings) -> None:
    """Check the ranges of the [phantom] settings.

    Raises:
        UserError: lists every invalid setting.
    """
    difficulty_named(settings.difficulty)
    faults = []
    if not re.fullmatch(r"\w[\w.-]*", settings.name):
        faults.append(f"phantom.name: expected letters, digits, '.', '_' or '-', got {settings.name!r}")
    for name, low, high in (
        ("train_exams", 1, 100_000), ("test_exams", 1, 100_000), ("rows", 64, 1024), ("slices", 12, 1200),
        ("positive_share", 0.0, 1.0),
    ):  # fmt: skip
        value = getattr(settings, name)
        if not low <= value <= high:
            faults.append(f"phantom.{name}: expected {low} to {high}, got {value}")
    if faults:
        raise UserError.listing("Invalid settings of the synthetic contest:", faults)


def plan_contest(settings: PhantomSettings) -> list[tuple[int, str, str, ExamState]]:
    """Return index, split, StudyInstanceUID and target state of every exam of the contest."""
    exams: list[tuple[int, str, str, ExamState]] = []
    for offset, (split, count) in enumerate((("train", settings.train_exams), ("test", settings.test_exams))):
        rng = np.random.default_rng([settings.seed, 11, offset])
        for state in sample_states(count, settings.positive_share, rng):
            index = len(exams)
            exams.append((index, split, uid(settings.seed, "study", index), state))
    return exams


def write_synthetic_exam(
    settings: PhantomSettings, tree: Path, index: int, split: str, study: str, state: ExamState
) -> None:
    """Generate an exam and write its DICOM files, its masks and, last, its record; one job of `generate_contest`.

    Args:
        settings: the [phantom] section.
        tree: root of the contest tree.
        index: index of the exam in the contest.
        split: "train" or "test".
        study: StudyInstanceUID.
        state: target labels.
    """
    exam = generate_exam(
        state, difficulty_named(settings.difficulty), seed=settings.seed, index=index, rows=settings.rows,
        slices=settings.slices,
    )  # fmt: skip
    quirks = sample_quirks(streams(settings.seed, index)["files"], prone=exam.patient.prone)
    series = uid(settings.seed, "series", index)
    sops = [uid(settings.seed, "image", index, i) for i in range(len(exam.hu))]
    with study_folder(tree / split / study) as folder:
        (folder / series).mkdir()
        write_exam(exam, quirks, folder / series, study=study, series=series, sops=sops)
    write_masks(tree / "truth" / "masks" / f"{study}.npz", exam)
    write_json(_record_path(tree, study), _record(exam, quirks, split, study, series, sops))


@contextmanager
def study_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces `folder` once all its files are written."""
    # Named by process: a worker that outlived a killed run may still write the same exam.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class MaskedExam(Protocol):
    """An exam with ground truth masks: a `SyntheticExam`, or an exam with implanted clots."""

    @property
    def clot(self) -> np.ndarray:
        """Clot codes, uint8 (z, y, x)."""

    @property
    def artery(self) -> np.ndarray:
        """Artery mask, bool (z, y, x)."""


def write_masks(path: Path, exam: MaskedExam) -> None:
    """Save the clot codes and the artery mask as one zlib stream each, with their shape."""
    clot = np.frombuffer(zlib.compress(exam.clot.tobytes(), 1), np.uint8)
    artery = np.frombuffer(zlib.compress(np.packbits(exam.artery).tobytes(), 1), np.uint8)
    buffer = BytesIO()
    np.savez(buffer, shape=np.array(exam.clot.shape), clot=clot, artery=artery)
    write_bytes(path, buffer.getvalue())


def read_masks(tree: Path, study: str) -> tuple[np.ndarray, np.ndarray]:
    """Read the ground truth masks of an exam, (z, y, x), z ascending, x to the patient's left.

    Returns:
        Clot codes (uint8): 0 none, 1 trunk, 2 right main, 3 left main, 4 right lung, 5 left lung artery, + 8 when
        chronic; and the artery mask (bool).
    """
    with np.load(tree / "truth" / "masks" / f"{study}.npz", allow_pickle=False) as saved:
        shape = tuple(saved["shape"])
        clot = np.frombuffer(zlib.decompress(saved["clot"].tobytes()), np.uint8).reshape(shape)
        bits = np.frombuffer(zlib.decompress(saved["artery"].tobytes()), np.uint8)
    return clot, np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def _record_path(tree: Path, study: str) -> Path:
    return tree / "truth" / "exams" / f"{study}.json"


def _record(exam: SyntheticExam, quirks: Quirks, split: str, study: str, series: str, sops: list[str]) -> dict:
    facts = {
        "rv_mm": round(exam.heart.rv_mm, 2), "lv_mm": round(exam.heart.lv_mm, 2),
        "rv_lv_ratio": round(exam.heart.ratio, 4), "artery_hu": round(exam.contrast.artery, 1),
        "noise_sd": round(exam.scanner.noise_sd, 2), "kernel": exam.scanner.kernel, "fov_mm": round(exam.fov_mm, 2),
        "trunk_mm": round(exam.trunk_mm, 2),
        "slice_step_mm": round(exam.grid.step, 4), "transfer_syntax": str(quirks.syntax), "position": quirks.position,
        "row_sign": quirks.row_sign, "column_sign": quirks.column_sign, "signed": quirks.signed,
        "intercept": quirks.intercept, "reversed_numbers": quirks.reversed_numbers,
    }  # fmt: skip
    return {
        "split": split, "study": study, "series": series, "sops": sops,
        "pe_present": exam.pe_present.astype(int).tolist(), "labels": label_row(exam.labels), "clots": exam.clots,
        "clot_area_mm2": np.round(exam.clot_area_mm2, 1).tolist(), "facts": facts,
    }  # fmt: skip


def write_tables(seed: int, tree: Path, records: list[dict]) -> tuple[dict[str, int], dict[str, float]]:
    """Write the contest's CSV files, for the splits with exams, and the tables of the ground truth.

    Args:
        seed: seed of the row order.
        tree: root of the contest tree.
        records: one record per exam, as in truth/exams/<Study>.json.

    Returns:
        Row counts, and metrics: the share of positive slices.

    Raises:
        RuntimeError: when two slices have the same identifier.
    """
    slices = pd.concat([_slice_rows(record) for record in records], ignore_index=True)
    if slices[SOP].duplicated().any():
        raise RuntimeError("Two slices have the same identifier. Choose another seed.")
    slices = slices.iloc[np.random.default_rng([seed, 13]).permutation(len(slices))]
    train, test = (slices[slices["split"] == split] for split in ("train", "test"))
    if len(train):
        write_table(tree / "train.csv", train[list(TRAIN_COLUMNS)])
    if len(test):
        write_table(tree / "test.csv", test[list(ID_COLUMNS)])
        write_table(tree / "sample_submission.csv", pd.DataFrame({"id": submission_ids(test), "label": 0.5}))
        write_table(tree / "truth" / "test_truth.csv", test[list(TRAIN_COLUMNS)])
    exams = [
        {STUDY: r["study"], "split": r["split"], **r["labels"], "q": np.mean(r["pe_present"]), **r["facts"]}
        for r in records
    ]
    write_table(tree / "truth" / "exams.csv", pd.DataFrame(exams))
    clots = [{STUDY: record["study"], **clot} for record in records for clot in record["clots"]]
    columns = [STUDY, "kind", "region", "hu", "ratio", "artery_mm", "pieces"]
    write_table(tree / "truth" / "clots.csv", pd.DataFrame(clots, columns=columns))
    rows = {
        "train exams": train[STUDY].nunique(),
        "test exams": test[STUDY].nunique(),
        "train slices": len(train),
        "test slices": len(test),
    }
    return rows, {"positive_slice_share": float(slices[SLICE_LABEL].mean())}


def _slice_rows(record: dict) -> pd.DataFrame:
    """Return the slices of an exam as rows with the columns of train.csv and the split."""
    rows = pd.DataFrame({SOP: record["sops"], SLICE_LABEL: record["pe_present"]})
    return rows.assign(
        **{STUDY: record["study"], SERIES: record["series"], "split": record["split"], **record["labels"]}
    )
