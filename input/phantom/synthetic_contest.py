"""Draws a whole contest tree: exams as independent jobs, then the CSV files and the truth.

<tree>/train|test/<Study>/<Series>/<SOP>.dcm
<tree>/train.csv  test.csv  sample_submission.csv
<tree>/truth/test_truth.csv        the test exams' labels, in train.csv's columns
<tree>/truth/exams.csv             per exam: labels, diameters, contrast, noise, quirks
<tree>/truth/clots.csv             per clot: kind, region, artery width, attenuation
<tree>/truth/masks/<Study>.npz     clot codes and artery mask (z, y, x), canonical orientation
<tree>/truth/exams/<Study>.json    written last of an exam: what makes a killed run resume
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
from input.phantom.dicom_quirks import Quirks, draw_quirks
from input.phantom.dicom_writer import uid, write_exam
from input.phantom.difficulty import difficulty_named
from input.phantom.exam_generator import DrawnExam, draw_exam, streams
from input.phantom.labels import ExamState, draw_states, label_row
from pipeline.artifact import Artifact
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import read_json, write_bytes, write_json, write_table
from pipeline.jobs import run_jobs
from pipeline.settings import PhantomSettings

#: By difficulty; raise it when the same settings draw other bytes.
VERSIONS = {"easy": 1, "medium": 2, "contest": 2}


def draw_contest(settings: PhantomSettings, tree: Path, *, force: bool, workers: int = 0) -> None:
    """Draw the contest of `settings` into `tree`, or skip it when it is there.

    Exams are drawn in parallel and each is finished when its truth file exists, so a killed run goes
    on where it was. The same settings give the same bytes.

    Args:
        settings: the [phantom] section.
        tree: the contest tree; emptied first when other settings drew it.
        force: draw everything again.
        workers: processes; 0 means one a core.

    Raises:
        UserError: settings that cannot be drawn, all named at once.
    """
    check_settings(settings)
    identity = {key: value for key, value in dataclasses.asdict(settings).items() if key != "name"}
    product = Artifact(tree, "input/raw", version=VERSIONS[settings.difficulty], settings=identity, inputs={})
    if product.is_current(force=force):
        return
    with product.building(fresh=force):
        for leftover in tree.glob("*/.*.partial"):
            shutil.rmtree(leftover, ignore_errors=True)
        exams = plan(settings)
        missing = [each for each in exams if not _done(tree, each[2]).is_file()]
        if len(missing) < len(exams):
            say(f"input/raw: {len(exams) - len(missing)} of {len(exams)} exams are there, drawing the rest")
        jobs = [(settings, tree, *each) for each in missing]
        for _ in run_jobs(draw_one, jobs, what="drawing exams", workers=workers):
            pass
        records = [read_json(_done(tree, study)) for _, _, study, _ in exams]
        rows, metrics = write_tables(settings.seed, tree, records)
        product.finish(rows=rows, metrics=metrics)
        say(f"input/raw: {rows['train exams']} training and {rows['test exams']} test exams, "
            f"{metrics['positive_slice_share']:.1%} of the slices positive")  # fmt: skip


def check_settings(settings: PhantomSettings) -> None:
    """Refuse settings that cannot be drawn; every fault is listed."""
    difficulty_named(settings.difficulty)
    faults = []
    # A path would name a folder elsewhere, and a build empties the folder of an earlier one.
    if not re.fullmatch(r"\w[\w.-]*", settings.name):
        faults.append(f"phantom.name: expected the name of a folder below input/raw, found {settings.name!r}; "
                      "PE_ROOT=DIR moves all products")  # fmt: skip
    for name, low, high in (
        ("train_exams", 1, 100_000), ("test_exams", 1, 100_000), ("rows", 64, 1024), ("slices", 12, 1200),
        ("positive_share", 0.0, 1.0),
    ):  # fmt: skip
        value = getattr(settings, name)
        if not low <= value <= high:
            faults.append(f"phantom.{name}: expected {low} to {high}, found {value}")
    if faults:
        raise UserError.listing("These phantom settings cannot be drawn:", faults)


def plan(settings: PhantomSettings) -> list[tuple[int, str, str, ExamState]]:
    """Every exam of the contest: its index, split, StudyInstanceUID and state."""
    exams = []
    for offset, (split, count) in enumerate((("train", settings.train_exams), ("test", settings.test_exams))):
        rng = np.random.default_rng([settings.seed, 11, offset])
        for state in draw_states(count, settings.positive_share, rng):
            index = len(exams)
            exams.append((index, split, uid(settings.seed, "study", index), state))
    return exams


def draw_one(settings: PhantomSettings, tree: Path, index: int, split: str, study: str, state: ExamState) -> None:
    """One job: draw an exam and write its files, its masks and, last, its record."""
    exam = draw_exam(
        state, difficulty_named(settings.difficulty), seed=settings.seed, index=index, rows=settings.rows,
        slices=settings.slices,
    )  # fmt: skip
    quirks = draw_quirks(streams(settings.seed, index)["files"], prone=exam.patient.prone)
    series = uid(settings.seed, "series", index)
    sops = [uid(settings.seed, "image", index, i) for i in range(len(exam.hu))]
    with study_folder(tree / split / study) as folder:
        (folder / series).mkdir()
        write_exam(exam, quirks, folder / series, study=study, series=series, sops=sops)
    write_masks(tree / "truth" / "masks" / f"{study}.npz", exam)
    write_json(_done(tree, study), _record(exam, quirks, split, study, series, sops))


@contextmanager
def study_folder(folder: Path) -> Iterator[Path]:
    """Yield a hidden folder that replaces `folder` when all its files are written."""
    # Named by process: a worker that outlived a killed run may still draw the same exam.
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class ExamTruth(Protocol):
    """An exam with its masks: `DrawnExam`, or one with implanted clots."""

    clot: np.ndarray  # uint8 (z, y, x)
    artery: np.ndarray  # bool (z, y, x)


def write_masks(path: Path, exam: ExamTruth) -> None:
    """Save the clot codes and the artery mask as one zlib stream each, beside their shape."""
    packed = {
        "shape": np.array(exam.clot.shape),
        "clot": np.frombuffer(zlib.compress(exam.clot.tobytes(), 1), np.uint8),
        "artery": np.frombuffer(zlib.compress(np.packbits(exam.artery).tobytes(), 1), np.uint8),
    }
    buffer = BytesIO()
    np.savez(buffer, **packed)
    write_bytes(path, buffer.getvalue())


def read_masks(tree: Path, study: str) -> tuple[np.ndarray, np.ndarray]:
    """Truth of an exam, (z, y, x), z rising, x to the patient's left: clot codes (uint8) and arteries (bool).

    A code is 1 trunk, 2 right main, 3 left main, 4 right lung, 5 left lung, and 8 more when chronic.
    """
    with np.load(tree / "truth" / "masks" / f"{study}.npz", allow_pickle=False) as saved:
        shape = tuple(saved["shape"])
        clot = np.frombuffer(zlib.decompress(saved["clot"].tobytes()), np.uint8).reshape(shape)
        bits = np.frombuffer(zlib.decompress(saved["artery"].tobytes()), np.uint8)
    return clot, np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)


def _done(tree: Path, study: str) -> Path:
    return tree / "truth" / "exams" / f"{study}.json"


def _record(exam: DrawnExam, quirks: Quirks, split: str, study: str, series: str, sops: list[str]) -> dict:
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
        "pe_present": exam.pe_present.astype(int).tolist(), "labels": label_row(exam.on), "clots": exam.clots,
        "clot_area_mm2": np.round(exam.clot_area_mm2, 1).tolist(), "facts": facts,
    }  # fmt: skip


def write_tables(seed: int, tree: Path, records: list[dict]) -> tuple[dict[str, int], dict[str, float]]:
    """Write the contest's CSV files (of the splits that have exams) and the truth tables; row counts and shares."""
    slices = pd.concat([_slice_rows(record) for record in records], ignore_index=True)
    if slices[SOP].duplicated().any():
        raise RuntimeError("two slices share an identifier; choose another phantom.seed")
    order = np.random.default_rng([seed, 13]).permutation(len(slices))
    slices = slices.iloc[order]
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
    rows = pd.DataFrame({SOP: record["sops"], SLICE_LABEL: record["pe_present"]})
    return rows.assign(
        **{STUDY: record["study"], SERIES: record["series"], "split": record["split"], **record["labels"]}
    )
