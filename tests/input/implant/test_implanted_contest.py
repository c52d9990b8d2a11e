"""Clots implanted into a synthetic scan without PE: ground truth, noise, files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from input.check_data import check_tree
from input.contest import CENTRAL, GTE_1, LEFT, LT_1, NEGATIVE, RIGHT, SLICE_LABEL, STUDY
from input.dicom import read_series
from input.implant import implanted_contest
from input.implant.blood_lumen import find_lumen, implant_clots
from input.implant.implanted_contest import PLAIN, write_implanted_contest
from input.implant.implanted_exam import ImplantedExam, generate_implanted_exam, sample_state
from input.implant.real_arteries import DetectedArteries, find_arteries
from input.implant.source_scan import SourceScan, read_source
from input.label_rules import violations
from input.phantom import example_page
from input.phantom.dicom_writer import write_exam
from input.phantom.difficulty import DIFFICULTIES
from input.phantom.emboli import Clot
from input.phantom.exam_generator import SyntheticExam, generate_exam
from input.phantom.labels import ExamState, broken_rules
from input.phantom.raster import Grid, Tubes
from input.phantom.synthetic_contest import read_masks
from input.phantom.vessel_trees import Arteries
from pipeline.errors import UserError
from pipeline.files import write_json

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

CT = Path(__file__).resolve().parents[4] / "shared" / "ct"
EASY = DIFFICULTIES["easy"]


@pytest.fixture(scope="module")
def synthetic_exam() -> SyntheticExam:
    """Generate the middle of an exam without PE."""
    exam = generate_exam(ExamState(frozenset({NEGATIVE}), -1), EASY, seed=5, index=3, rows=256, slices=130)
    kept = (slice(*np.searchsorted(exam.grid.z, [-85, 55]).tolist()), slice(None), slice(None))
    return replace(exam, hu=exam.hu[kept], artery=exam.artery[kept], grid=exam.grid.part(kept))


@pytest.fixture(scope="module")
def scan(synthetic_exam: SyntheticExam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the exam as DICOM files."""
    folder = tmp_path_factory.mktemp("scan")
    sops = [f"{i:012x}" for i in range(len(synthetic_exam.hu))]
    write_exam(synthetic_exam, PLAIN, folder, study="0" * 12, series="1" * 12, sops=sops)
    return folder


@pytest.fixture(scope="module")
def source(scan: Path) -> SourceScan:
    return read_source(scan)


@pytest.fixture(scope="module")
def detected(source: SourceScan) -> DetectedArteries:
    return find_arteries(source.hu, source.grid)


def test_a_scan_is_read_as_it_was_written(source: SourceScan, synthetic_exam: SyntheticExam) -> None:
    assert np.array_equal(source.hu, synthetic_exam.hu)
    assert source.grid.step == pytest.approx(synthetic_exam.grid.step, abs=1e-3)
    assert source.grid.pixel == pytest.approx(synthetic_exam.grid.pixel, abs=1e-5)


def test_most_detected_vessels_are_arteries_in_both_lungs(
    detected: DetectedArteries, synthetic_exam: SyntheticExam
) -> None:
    tubes = detected.arteries.tubes.take(detected.arteries.region[detected.arteries.segment] > 0)
    # The axes of the source are centred; those of the synthetic exam are patient coordinates.
    points = (tubes.start + tubes.end) / 2
    middle = np.array([synthetic_exam.grid.x.mean(), synthetic_exam.grid.y.mean(), 0.0])
    axes = (synthetic_exam.grid.x, synthetic_exam.grid.y, synthetic_exam.grid.z)
    index = [np.abs(axis[None] - (points + middle)[:, i, None]).argmin(axis=1) for i, axis in enumerate(axes)]
    assert synthetic_exam.artery[index[2], index[1], index[0]].mean() > 0.7
    assert set(detected.arteries.region) == {0, 4, 5}
    assert detected.blood_hu == pytest.approx(synthetic_exam.contrast.artery, rel=0.15)


@pytest.fixture(scope="module")
def implanted_exams(source: SourceScan, detected: DetectedArteries) -> list[ImplantedExam]:
    return [generate_implanted_exam(source, detected, EASY, LT_1, np.random.default_rng(i)) for i in range(6)]


def test_labels_follow_from_the_mask(implanted_exams: list[ImplantedExam]) -> None:
    for exam in implanted_exams:
        regions = set((exam.clot[exam.clot > 0] % 8).tolist())
        assert (LEFT in exam.labels, RIGHT in exam.labels) == (5 in regions, 4 in regions)
        assert CENTRAL not in exam.labels and LT_1 in exam.labels
        assert broken_rules(exam.labels) == []
        assert np.array_equal(exam.pe_present, exam.clot_area_mm2 >= EASY.visible_mm2)
        assert exam.pe_present.any()
        assert not exam.clot[exam.clot_area_mm2 == 0].any()


def test_only_clots_change_and_they_are_dark(
    implanted_exams: list[ImplantedExam], source: SourceScan, detected: DetectedArteries
) -> None:
    for exam in implanted_exams:
        change = exam.hu.astype(int) - source.hu
        # Outside the mask, voxels contain less than VISIBLE_COVER of clot.
        assert np.abs(change[exam.clot == 0]).max() < 0.45 * detected.blood_hu
        changed = np.abs(change) > 0
        assert changed.mean() < 0.01
        assert source.hu[changed].mean() > 0, "only vessels and their edges change"
        assert np.median(exam.hu[exam.clot > 0]) < 0.5 * detected.blood_hu
        assert np.all(exam.artery[exam.clot > 0])


def test_a_clot_keeps_the_noise_of_the_blood() -> None:
    """In a wide straight vessel with noise, the clot has its mean attenuation and the texture of the blood."""
    axis = np.arange(-20, 20, 0.8)
    grid = Grid(axis, axis, np.arange(-12, 12, 1.0), 1.0)
    noise = np.random.default_rng(0).normal(0, 20, grid.shape)
    inside = np.hypot(axis[None, :], axis[:, None])[None] < 9
    hu = (np.where(inside, 350, -850) + noise).astype(np.int16)
    tubes = Tubes(np.array([[0, 0, -12.0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 12.0]]), *np.full((2, 2), 9.0))
    arteries = Arteries(tubes, np.zeros(2, int), np.array([-1]), np.array([4]))
    clot = Clot(np.arange(2), 4, False, False, 0.7, np.zeros(3), 50.0)
    lumen = find_lumen(hu, grid, DetectedArteries(arteries, 350, 175, 0))
    after = implant_clots(hu, grid, [clot], arteries, lumen)
    core = (np.hypot(axis[None, :], axis[:, None]) < 4)[None] & (np.abs(grid.z) < 6)[:, None, None]
    assert after[core].mean() == pytest.approx(50, abs=6)
    assert after[core].std() == pytest.approx(hu[core].std(), rel=0.1)
    assert np.corrcoef(after[core], hu[core])[0, 1] > 0.95
    rim = (np.hypot(axis[None, :], axis[:, None]) > 7.5)[None] & inside & (np.abs(grid.z) < 6)[:, None, None]
    assert np.abs(after[rim].astype(int) - hu[rim]).max() < 30
    assert lumen.blood[core[lumen.box]].mean() == pytest.approx(350, abs=6)


def test_a_state_needs_only_detected_arteries(detected: DetectedArteries) -> None:
    right_only = replace(detected.arteries, region=np.where(detected.arteries.region == 4, 4, 0))
    for i in range(50):
        state = sample_state(right_only, GTE_1, np.random.default_rng(i))
        assert RIGHT in state.labels and GTE_1 in state.labels
        assert not state.labels & {LEFT, CENTRAL, LT_1}


@pytest.mark.slow
def test_the_tree_is_a_contest_tree_with_a_negative_counterpart(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_implanted_contest([scan], out, variants=2, with_source=True, difficulty="easy", workers=1)
    tree, faults = check_tree(out)
    assert faults == ["train.csv is missing"]
    assert tree.tables["test"][STUDY].nunique() == 3
    truth = pd.read_csv(out / "truth" / "test_truth.csv", dtype={STUDY: str})
    exams = truth.groupby(STUDY).max(numeric_only=True)
    assert exams[NEGATIVE].sum() == 1
    assert not violations(exams, exams[SLICE_LABEL]).to_numpy().any()
    original = read_series(scan).hu
    for study, row in exams.iterrows():
        series = read_series(out / "test" / str(study))
        clot, artery = read_masks(out, str(study))
        assert clot.shape == artery.shape == series.hu.shape
        assert bool(clot.any()) == bool(row[SLICE_LABEL])
        assert np.array_equal(series.hu, original) == bool(row[NEGATIVE])
    groups = pd.read_csv(out / "fold_groups.csv", dtype=str)
    assert set(groups[STUDY]) == set(exams.index) and set(groups["group"]) == {read_series(scan).study_uid}
    with pytest.raises(UserError, match="not empty"):
        write_implanted_contest([scan], out, workers=1)


@pytest.mark.slow
def test_a_linked_training_part_makes_a_complete_contest_tree(
    scan: Path, detected: DetectedArteries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implanted_contest, "find_arteries", lambda hu, grid: detected)
    write_implanted_contest([scan], tmp_path / "train", split="train", difficulty="easy", workers=1)
    write_implanted_contest([scan], tmp_path / "whole", difficulty="easy", train=tmp_path / "train", workers=1)
    tree, faults = check_tree(tmp_path / "whole")
    assert faults == []
    assert [tree.tables[split][STUDY].nunique() for split in ("train", "test")] == [1, 1]
    with pytest.raises(UserError, match="the same scan as"):
        write_implanted_contest([scan, scan], tmp_path / "twice", difficulty="easy", workers=1)


def test_all_unusable_scans_are_reported_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)a\.nii.*b: no such file"):
        write_implanted_contest([tmp_path / "a.nii", tmp_path / "b"], tmp_path / "out", workers=1)
    noise = Grid(np.arange(40.0), np.arange(40.0), np.arange(30.0), 1.0)
    with pytest.raises(UserError, match="Lungs not detected"):
        find_arteries(np.full(noise.shape, 40, np.int16), noise)
    assert not (tmp_path / "out").exists()


def test_the_example_page_accepts_exams_of_several_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, width in enumerate((40, 60)):
        write_json(tmp_path / "truth" / "exams" / f"{number}.json", {"pe_present": [number], "width": width})
    monkeypatch.setattr(example_page, "_band", lambda tree, exam, slices: np.ones((9, exam["width"], 3), np.uint8))
    example_page.write_example_page(tmp_path, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert page.size == (60, 18)


@pytest.mark.slow
@pytest.mark.skipif(not CT.is_dir(), reason="no real CT scans available")
def test_clots_are_implanted_into_a_real_venous_scan() -> None:
    source = read_source(CT / "chest_contrast")
    detected = find_arteries(source.hu, source.grid)
    assert 100 < detected.blood_hu < 180
    exam = generate_implanted_exam(source, detected, DIFFICULTIES["contest"], LT_1, np.random.default_rng(1))
    assert exam.pe_present.any()
    assert np.median(exam.hu[exam.clot > 0]) < np.median(source.hu[exam.clot > 0]) - 25
