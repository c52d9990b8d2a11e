"""Acceptance: faults of an exam are measured and named; a clean exam is assessable."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.shifts import HELD_OUT, TUNED
from features.acceptance_measurements import FIELDS, measure_acceptance
from features.acceptance_rules import Acceptance, Outcome, Reason, accept, judge
from features.build_acceptance import build_acceptance, judged, measure_store, read_acceptance, training_step_mm
from features.build_store import assemble
from features.ingest import ingest_series
from features.store import open_exam
from input.contest import SERIES, SOP, STUDY
from input.dicom import Series, read_series
from pipeline import paths
from pipeline.files import write_json, write_table
from pipeline.settings import FeaturesSettings
from tests.support.synthetic_exam import CLEAN, synthetic_series

REAL_CT = Path(__file__).resolve().parents[3] / "shared" / "ct"
STEP_MM = 5.3


def store_series(series: Series, store: Path) -> pd.DataFrame:
    """Store a series with both tables; returns its acceptance measurements."""
    store.mkdir(exist_ok=True)
    ingested = ingest_series(series, store, FeaturesSettings())
    slices = pd.DataFrame({STUDY: series.study_uid, SERIES: series.series_uid, SOP: series.sop_uids})
    slices = slices.assign(z_mm=series.z_mm, split="test", quarantine="")
    for name, table in zip(("slices", "exams"), assemble(slices, [ingested]), strict=True):
        write_table(store / f"{name}.parquet", table)
    return measure_store(store)


def judge_series(series: Series, store: Path) -> Acceptance:
    return judged(store_series(series, store), STEP_MM)[series.study_uid]


def test_a_clean_exam_is_assessable(tmp_path: Path) -> None:
    table = store_series(synthetic_series(), tmp_path)
    assert list(table) == [STUDY, "split", *FIELDS]
    acceptance = judged(table, STEP_MM)["a1"]
    assert acceptance.line() == "assessable" and acceptance.reason_text == ""
    measured = table.iloc[0]
    assert measured["slices"] == len(synthetic_series().hu) and measured["missing_share"] == 0
    assert abs(measured["hu_shift"]) < 130 and 250 < measured["artery_hu"] < 550
    assert measured["airway_top_cm2"] > 0.8 > measured["airway_bottom_cm2"] and measured["heart_taper"] > 1.1
    assert measured["aorta_left"] > 0.2 and measured["lung_front"] > 0


@pytest.mark.parametrize(
    ("shift", "outcome", "text"),
    [
        ("hu_too_high", Outcome.NOT_ASSESSABLE, "HU about 1024 too high: rescale intercept missing?"),
        ("unenhanced", Outcome.NOT_ASSESSABLE, "no contrast in the pulmonary artery"),
        ("no_lungs", Outcome.NOT_ASSESSABLE, "no lungs found"),
        ("upside_down", Outcome.NOT_ASSESSABLE, "head and feet are exchanged"),
        ("missing_middle", Outcome.CAUTION, "of the scanned range is missing"),
        ("noisy", Outcome.CAUTION, "strong noise"),
        ("cut_above_the_heart", Outcome.CAUTION, "missing: the heart and below"),
        ("wrapped_12_bit", Outcome.NOT_ASSESSABLE, "wrapped values"),
        ("mirrored", Outcome.CAUTION, "the descending aorta is on the right"),
        ("windowed", Outcome.NOT_ASSESSABLE, "grey values of a picture"),
        ("one_lung", Outcome.CAUTION, "one lung has"),
    ],
)
def test_a_fault_is_named_and_nothing_is_corrected(shift: str, outcome: Outcome, text: str, tmp_path: Path) -> None:
    faulty = (TUNED | HELD_OUT)[shift](synthetic_series(), np.random.default_rng(0))
    acceptance = judge_series(faulty, tmp_path)
    assert acceptance.outcome is outcome, acceptance.line()
    assert text in acceptance.reason_text
    stored = open_exam(tmp_path, "a1")
    assert len(stored) == len(faulty.hu)
    assert stored.hu[:].max() <= faulty.hu.max() and stored.hu[:].min() >= faulty.hu.min()


def test_front_and_back_exchanged_is_noticed(tmp_path: Path) -> None:
    series = synthetic_series()
    acceptance = judge_series(dataclasses.replace(series, hu=series.hu[:, ::-1].copy()), tmp_path)
    assert acceptance.outcome is Outcome.NOT_ASSESSABLE
    assert "the spine is in front" in acceptance.reason_text


def test_one_slice_is_not_an_exam(tmp_path: Path) -> None:
    series = synthetic_series()
    one = dataclasses.replace(series, hu=series.hu[20:21], z_mm=series.z_mm[20:21], sop_uids=series.sop_uids[:1])
    acceptance = judge_series(one, tmp_path)
    assert acceptance.outcome is Outcome.NOT_ASSESSABLE
    assert acceptance.reason_text.startswith("1 slice over 0 mm: not an exam of the chest")


def test_an_exam_without_spacing_is_judged_by_what_is_known(tmp_path: Path) -> None:
    series = synthetic_series()
    ranks = np.arange(len(series.hu), dtype=float)  # as in the JPEG-256 derivative
    table = store_series(dataclasses.replace(series, spacing_mm=(np.nan, np.nan), z_mm=ranks), tmp_path)
    assert table[["extent_mm", "step_mm", "lung_ml", "lung_height_mm", "metal_ml"]].isna().all(axis=None)
    assert judged(table, STEP_MM)["a1"].outcome is Outcome.ASSESSABLE


def test_two_interleaved_passes_are_noticed(tmp_path: Path) -> None:
    series = synthetic_series()
    count = len(series.hu)
    second = dataclasses.replace(
        series,
        hu=np.repeat(series.hu, 2, axis=0),
        z_mm=(series.z_mm[:, None] + [0.0, 0.4]).ravel(),
        sop_uids=tuple(f"{plane:012x}" for plane in range(2 * count)),
    )
    acceptance = judge_series(second, tmp_path / "interleaved")
    assert "the slice distances are uneven" in acceptance.reason_text
    repeated = dataclasses.replace(second, z_mm=np.repeat(series.z_mm, 2))
    acceptance = judge_series(repeated, tmp_path / "repeated")
    assert "50% of the slices repeat a position" in acceptance.reason_text.replace("51%", "50%")


@pytest.mark.parametrize(
    ("changed", "rule", "severe"),
    [
        ({"missing_share": 0.6, "gap_mm": 100.0}, "gaps", True),
        ({"step_mm": 10.0}, "thick", False),
        ({"hu_shift": 912.0}, "hu too high", True),
        ({"hu_shift": 400.0}, "hu shifted", True),
        ({"hu_fit": 0.01, "hu_high": -300.0}, "hu too low", True),
        ({"hu_fit": 0.01}, "hu unknown", True),
        ({"lung_ml": 500.0}, "lung volume", True),
        ({"lung_ml": 1000.0}, "lung volume", False),
        ({"lung_hu": -600.0}, "lung hu", False),
        ({"top_share": 0.95}, "coverage", False),
        ({"lung_height_mm": 90.0, "bottom_share": 1.0}, "coverage", False),
        ({"lung_height_mm": 90.0, "top_share": 1.0}, "coverage", True),
        ({"cut_share": 0.1}, "lungs cut", False),
        ({"artery_hu": 122.0}, "contrast", False),
        ({"artery_hu": float("nan")}, "contrast", False),
        ({"flicker": 1.1}, "motion", False),
        ({"metal_ml": 20.0}, "metal", False),
    ],
)
def test_each_limit_has_its_reason(changed: dict[str, float], rule: str, severe: bool) -> None:
    acceptance = judge(dataclasses.replace(CLEAN, **changed), STEP_MM)
    assert [(reason.rule, reason.is_severe) for reason in acceptance.reasons] == [(rule, severe)]
    assert judge(CLEAN, STEP_MM).outcome is Outcome.ASSESSABLE


def test_thick_slices_are_a_warning_only_where_the_networks_learned_on_thinner_ones() -> None:
    thick = dataclasses.replace(CLEAN, step_mm=5.0)
    assert judge(thick, 5.3).outcome is Outcome.ASSESSABLE
    assert judge(thick, 1.25).outcome is judge(thick).outcome is Outcome.CAUTION


def test_unknown_lengths_are_no_fault() -> None:
    lengths = [name for name in FIELDS if name.endswith(("_mm", "_ml", "_cm2"))] + ["missing_share", "heart_taper"]
    unknown = dataclasses.replace(CLEAN, **dict.fromkeys(lengths, float("nan")))
    assert judge(unknown, STEP_MM).outcome is Outcome.ASSESSABLE


def test_severe_reasons_come_first_and_decide() -> None:
    mild, severe = Reason("a", "mild"), Reason("b", "severe", True)
    assert accept((mild, severe)).line() == "not assessable: severe; mild"
    assert accept((mild,)).with_reason(severe).outcome is Outcome.NOT_ASSESSABLE
    assert accept((mild,)).with_reason(None).line() == "caution: mild"


def test_the_measurements_of_a_run_are_an_artifact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    paths.store().mkdir(parents=True)
    series = synthetic_series()
    table = store_series(series, paths.store())
    exams = pd.read_parquet(paths.store() / "exams.parquet").assign(split="train")
    write_table(paths.store() / "exams.parquet", exams)
    write_json(paths.store() / "manifest.json", {"identity": "store", "files": _checksums(paths.store())})
    build_acceptance()
    build_acceptance()
    shown = capsys.readouterr().out
    assert "1 exams assessable, 0 exams caution, 0 exams not assessable" in shown and "up to date" in shown
    assert training_step_mm() == pytest.approx(table["step_mm"].iat[0])
    assert read_acceptance()["a1"].outcome is Outcome.ASSESSABLE


def _checksums(folder: Path) -> dict[str, str]:
    from pipeline.files import sha256

    return {path.name: sha256(path) for path in folder.iterdir()}


def test_measuring_needs_no_table_but_the_stored_exam(tmp_path: Path) -> None:
    ingested = ingest_series(synthetic_series(), tmp_path, FeaturesSettings())
    exam = open_exam(tmp_path, "a1")
    measured = measure_acceptance(exam, ingested.slices, ingested.numbers)
    assert judge(measured, STEP_MM).outcome is Outcome.ASSESSABLE


@pytest.mark.skipif(not REAL_CT.is_dir(), reason="no real CT in shared/ct")
@pytest.mark.parametrize(
    ("name", "line"),
    [
        # Venous phase, whole chest and upper abdomen, sharp: blood evenly at about 125 HU. Emboli are hard to see.
        ("chest_contrast", "caution: poor contrast in the pulmonary artery (122 HU; at least 200 expected)"),
        # Arterial phase, whole chest: pulmonary artery and aorta well filled, no motion; 5 mm like the training.
        ("chest_arterial", "assessable"),
    ],
)
def test_real_chests_have_the_outcome_that_a_reader_shares(name: str, line: str, tmp_path: Path) -> None:
    series = dataclasses.replace(read_series(REAL_CT / name), study_uid="a1")
    assert judge_series(series, tmp_path).line() == line
