"""Clots implanted into a scan that was drawn without PE, then read back: truth, noise, files."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from input.contest import CENTRAL, GTE_1, LEFT, LT_1, NEGATIVE, RIGHT, SLICE_LABEL, STUDY
from input.contest_tree import check_tree
from input.dicom import read_series
from input.implant.implant_clots import (
    PLAIN,
    Source,
    blended,
    draw_state,
    find_lumen,
    implant,
    implant_all,
    read_source,
)
from input.implant.real_arteries import FoundArteries, find_arteries
from input.phantom import example_page as preview
from input.phantom.dicom_writer import write_exam
from input.phantom.difficulty import DIFFICULTIES
from input.phantom.emboli import Clot
from input.phantom.exam_generator import DrawnExam, draw_exam
from input.phantom.labels import ExamState, broken_rules
from input.phantom.raster import Grid, Tubes
from input.phantom.synthetic_contest import read_masks
from input.phantom.vessel_trees import Arteries
from input.rules import violations
from pipeline.errors import UserError
from pipeline.files import write_json

CT = Path(__file__).resolve().parents[4] / "shared" / "ct"
EASY = DIFFICULTIES["easy"]


@pytest.fixture(scope="module")
def drawn() -> DrawnExam:
    """The middle of a drawn exam without PE."""
    exam = draw_exam(ExamState(frozenset({NEGATIVE}), -1), EASY, seed=5, index=3, rows=256, slices=130)
    kept = (slice(*np.searchsorted(exam.grid.z, [-85, 55]).tolist()), slice(None), slice(None))
    return replace(exam, hu=exam.hu[kept], artery=exam.artery[kept], grid=exam.grid.part(kept))


@pytest.fixture(scope="module")
def scan(drawn: DrawnExam, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as DICOM files."""
    folder = tmp_path_factory.mktemp("scan")
    sops = [f"{i:012x}" for i in range(len(drawn.hu))]
    write_exam(drawn, PLAIN, folder, study="0" * 12, series="1" * 12, sops=sops)
    return folder


@pytest.fixture(scope="module")
def source(scan: Path) -> Source:
    return read_source(scan)


@pytest.fixture(scope="module")
def found(source: Source) -> FoundArteries:
    return find_arteries(source.hu, source.grid)


def test_a_scan_is_read_as_it_was_written(source: Source, drawn: DrawnExam) -> None:
    assert np.array_equal(source.hu, drawn.hu)
    assert source.grid.step == pytest.approx(drawn.grid.step, abs=1e-3)
    assert source.grid.pixel == pytest.approx(drawn.grid.pixel, abs=1e-5)


def test_most_of_what_is_found_is_artery_in_both_lungs(found: FoundArteries, drawn: DrawnExam) -> None:
    tubes = found.arteries.tubes.take(found.arteries.region[found.arteries.segment] > 0)
    # The source's own axes are centred; those of the drawn exam are the patient's.
    points = (tubes.start + tubes.end) / 2
    middle = np.array([drawn.grid.x.mean(), drawn.grid.y.mean(), 0.0])
    axes = (drawn.grid.x, drawn.grid.y, drawn.grid.z)
    index = [np.abs(axis[None] - (points + middle)[:, i, None]).argmin(axis=1) for i, axis in enumerate(axes)]
    assert drawn.artery[index[2], index[1], index[0]].mean() > 0.7
    assert set(found.arteries.region) == {0, 4, 5}
    assert found.blood_hu == pytest.approx(drawn.contrast.artery, rel=0.15)


@pytest.fixture(scope="module")
def implants(source: Source, found: FoundArteries) -> list:
    return [implant(source, found, EASY, LT_1, np.random.default_rng(i)) for i in range(6)]


def test_labels_follow_from_the_mask(implants: list) -> None:
    for exam in implants:
        regions = set((exam.clot[exam.clot > 0] % 8).tolist())
        assert (LEFT in exam.on, RIGHT in exam.on) == (5 in regions, 4 in regions)
        assert CENTRAL not in exam.on and LT_1 in exam.on
        assert broken_rules(exam.on) == []
        assert np.array_equal(exam.pe_present, exam.clot_area_mm2 >= EASY.visible_mm2)
        assert exam.pe_present.any()
        assert not exam.clot[exam.clot_area_mm2 == 0].any()


def test_only_clots_change_and_they_are_dark(implants: list, source: Source, found: FoundArteries) -> None:
    for exam in implants:
        change = exam.hu.astype(int) - source.hu
        # Less than VISIBLE_COVER of a voxel is all that may lie outside the mask.
        assert np.abs(change[exam.clot == 0]).max() < 0.45 * found.blood_hu
        near = np.abs(change) > 0
        assert near.mean() < 0.01
        assert source.hu[near].mean() > 0, "only vessels and their edges move"
        assert np.median(exam.hu[exam.clot > 0]) < 0.5 * found.blood_hu
        assert np.all(exam.artery[exam.clot > 0])


def test_a_clot_keeps_the_noise_of_the_blood() -> None:
    """A wide straight vessel with noise: mean of the clot as drawn, texture voxel by voxel as before."""
    axis = np.arange(-20, 20, 0.8)
    grid = Grid(axis, axis, np.arange(-12, 12, 1.0), 1.0)
    noise = np.random.default_rng(0).normal(0, 20, grid.shape)
    inside = np.hypot(axis[None, :], axis[:, None])[None] < 9
    hu = (np.where(inside, 350, -850) + noise).astype(np.int16)
    tubes = Tubes(np.array([[0, 0, -12.0], [0, 0, 0]]), np.array([[0, 0, 0], [0, 0, 12.0]]), *np.full((2, 2), 9.0))
    arteries = Arteries(tubes, np.zeros(2, int), np.array([-1]), np.array([4]))
    clot = Clot(np.arange(2), 4, False, False, 0.7, np.zeros(3), 50.0)
    lumen = find_lumen(hu, grid, FoundArteries(arteries, 350, 175, 0))
    after = blended(hu, grid, [clot], arteries, lumen)
    core = (np.hypot(axis[None, :], axis[:, None]) < 4)[None] & (np.abs(grid.z) < 6)[:, None, None]
    assert after[core].mean() == pytest.approx(50, abs=6)
    assert after[core].std() == pytest.approx(hu[core].std(), rel=0.1)
    assert np.corrcoef(after[core], hu[core])[0, 1] > 0.95
    rim = (np.hypot(axis[None, :], axis[:, None]) > 7.5)[None] & inside & (np.abs(grid.z) < 6)[:, None, None]
    assert np.abs(after[rim].astype(int) - hu[rim]).max() < 30
    assert lumen.blood[core[lumen.box]].mean() == pytest.approx(350, abs=6)


def test_a_state_asks_only_for_what_was_found(found: FoundArteries) -> None:
    right_only = replace(found.arteries, region=np.where(found.arteries.region == 4, 4, 0))
    for i in range(50):
        state = draw_state(right_only, GTE_1, np.random.default_rng(i))
        assert RIGHT in state.on and GTE_1 in state.on
        assert not state.on & {LEFT, CENTRAL, LT_1}


@pytest.mark.slow
def test_the_tree_is_a_contest_tree_with_a_negative_twin(scan: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    implant_all([scan], out, variants=2, with_source=True, difficulty="easy", workers=1)
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
        implant_all([scan], out, workers=1)


@pytest.mark.slow
def test_a_training_part_beside_the_test_exams_makes_a_whole_contest(scan: Path, tmp_path: Path) -> None:
    implant_all([scan], tmp_path / "train", split="train", difficulty="easy", workers=1)
    implant_all([scan], tmp_path / "whole", difficulty="easy", train=tmp_path / "train", workers=1)
    tree, faults = check_tree(tmp_path / "whole")
    assert faults == []
    assert [tree.tables[split][STUDY].nunique() for split in ("train", "test")] == [1, 1]
    with pytest.raises(UserError, match="the same scan as"):
        implant_all([scan, scan], tmp_path / "twice", difficulty="easy", workers=1)


def test_scans_that_cannot_be_used_are_all_named_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)a\.nii.*b: not there"):
        implant_all([tmp_path / "a.nii", tmp_path / "b"], tmp_path / "out", workers=1)
    noise = Grid(np.arange(40.0), np.arange(40.0), np.arange(30.0), 1.0)
    with pytest.raises(UserError, match="no lungs"):
        find_arteries(np.full(noise.shape, 40, np.int16), noise)
    assert not (tmp_path / "out").exists()


def test_a_page_takes_exams_of_several_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, width in enumerate((40, 60)):
        write_json(tmp_path / "truth" / "exams" / f"{number}.json", {"pe_present": [number], "width": width})
    monkeypatch.setattr(preview, "_band", lambda tree, exam, slices: np.ones((9, exam["width"], 3), np.uint8))
    preview.draw_page(tmp_path, tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as page:
        assert page.size == (60, 18)


@pytest.mark.slow
@pytest.mark.skipif(not CT.is_dir(), reason="no real CT beside the checkout")
def test_a_real_venous_scan_takes_clots() -> None:
    source = read_source(CT / "chest_contrast")
    found = find_arteries(source.hu, source.grid)
    assert 100 < found.blood_hu < 180
    exam = implant(source, found, DIFFICULTIES["contest"], LT_1, np.random.default_rng(1))
    assert exam.pe_present.any()
    assert np.median(exam.hu[exam.clot > 0]) < np.median(source.hu[exam.clot > 0]) - 25
