"""Findings: ranges from slice probabilities, calibrated sides, key points from activation maps, and their text."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.logistic import Logistic, logit
from features.ingest import store_planes
from features.store import open_exam
from inference import key_slice_maps as maps_module
from inference.finding_text import describe_finding, describe_findings
from inference.findings import Finding, locate_findings, peaks
from inference.key_points import add_key_points, clot_density, strongest_point
from inference.side_calibration import SIDES, side_logits, side_probabilities
from input.contest import CENTRAL, EXAM_LABELS, LEFT, NEGATIVE, RIGHT, SOP, STUDY
from models.feature_grid import FeatureGrid
from pipeline import paths
from pipeline.settings import FeaturesSettings, ModelsSettings, Settings
from tests.support.evidence_cases import write_planes
from tests.support.synthetic_thorax import BLOOD, ellipse, make_thorax


def exam_tables(label, *, negative=0.2, study="a", step_mm=5.0):
    """Tables (exams, slices, measured) of one exam with the given slice probabilities, feet to head."""
    sops = [f"{study}{index}" for index in range(len(label))]
    exams = pd.DataFrame({STUDY: [study], **dict.fromkeys(EXAM_LABELS, 0.0), NEGATIVE: negative})
    slices = pd.DataFrame({STUDY: study, SOP: sops, "z_mm": np.arange(len(label)) * step_mm, "label": label})
    top = pd.DataFrame({SOP: sops, "z_from_lung_top_mm": (np.arange(len(label)) - len(label) + 1) * step_mm})
    return exams, slices, top


def gaussian_peak(length, centre, height, width=1.5):
    return height * np.exp(-0.5 * ((np.arange(length) - centre) / width) ** 2)


def logits_of(sops, **logits):
    """Logits of the sides for some slices; NaN for sides that are not given."""
    return pd.DataFrame({side: logits.get(side, np.nan) for side in SIDES}, index=sops)


def test_two_peaks_are_two_findings_likeliest_first():
    exams, slices, top = exam_tables(gaussian_peak(40, 10, 0.5) + gaussian_peak(40, 28, 0.9))
    first, second = locate_findings(exams, slices.sample(frac=1, random_state=0), logits_of([]), {}, top)["a"]
    assert (first.key, second.key) == (28, 10)
    assert first.first < 28 < first.last and first.last - first.first <= 5
    assert first.sop == "a28"
    assert first.key_mm == 140.0
    assert first.below_top_mm[2] == 55.0
    assert 0.5 < first.probability <= 0.8 * 0.9


def test_an_exam_with_zero_probability_has_one_finding_that_is_not_reported():
    (finding,) = locate_findings(*exam_tables(np.zeros(6))[:2], logits_of([]), {})["a"]
    assert finding.probability == 0
    assert np.isnan(finding.below_top_mm).all()
    assert describe_findings([finding]) == ["no slice has a probability of PE of 0.1 or more"]


def test_findings_of_slices_without_z_use_their_order():
    exams, slices, _ = exam_tables(gaussian_peak(20, 7, 0.9))
    (finding, *_) = locate_findings(exams, slices.assign(z_mm=np.nan), logits_of([]), {})["a"]
    assert finding.key == 7


def test_peaks_do_not_overlap_and_shoulders_are_not_peaks():
    assert peaks(np.array([0.1, 0.2, 0.9, 0.5, 0.4, 0.3, 0.6, 0.1])) == [(2, 3, 2), (4, 6, 6)]
    assert peaks(np.array([1.0, 1.0, 1.0])) == [(0, 2, 0)]


def test_side_probabilities_of_networks_are_averaged_as_logits():
    tables = [pd.DataFrame({SOP: ["s"], LEFT: [0.9]}), pd.DataFrame({SOP: ["s"], LEFT: [0.5], RIGHT: [0.2]})]
    logits = side_logits(tables)
    assert logits.loc["s", LEFT] == pytest.approx(logit(0.9) / 2)
    assert logits.loc["s", RIGHT] == pytest.approx(logit(0.2))
    assert np.isnan(logits.loc["s", CENTRAL])
    assert side_logits([]).empty


def test_calibration_separates_sides_that_the_networks_hardly_separate():
    rng = np.random.default_rng(0)
    x = np.column_stack([1.2 + rng.normal(0, 0.1, 200), 1.2 + rng.normal(0, 0.1, 200), np.zeros(200)])
    on_left = (x[:, 0] > x[:, 1]).astype(float)
    calibration = {LEFT: Logistic.fit(x, on_left), RIGHT: Logistic.fit(x, 1 - on_left)}
    logits = logits_of(["s", "t"], **{LEFT: [1.4, 1.4], RIGHT: [1.1, 1.1], CENTRAL: [0.0, 0.0]})
    sides = side_probabilities(logits, np.ones(2), calibration)
    assert sides[LEFT] > 0.8 > 0.2 > sides[RIGHT]
    assert sides[CENTRAL] == pytest.approx(0.5)
    raw = side_probabilities(logits, np.ones(2), {})
    assert min(raw[LEFT], raw[RIGHT]) > 0.7


def finding_of(**changes):
    """A finding of an exam of 44 slices, with changed attributes."""
    finding = Finding(27, 32, 30, 44, "s", 0.83, 0.12, 0.91, 0.05, 135, 160, 150, (140.0, 115.0, 125.0))
    return dataclasses.replace(finding, **changes)


def test_a_finding_is_described_in_one_line():
    finding = finding_of()
    assert describe_finding(finding) == (
        "slices 28-33 of 44 from the feet (115 to 140 mm below the top of the lungs): probability 0.83, right, "
        "peripheral (left 0.12, right 0.91, central 0.05); key slice 31"
    )
    pointed = finding_of(point=(3.0, 4.0), point_left_mm=-20.0)
    assert describe_finding(pointed) == f"{describe_finding(finding)}, strongest activation on the patient's right"
    single = finding_of(first=30, last=30, below_top_mm=(125.0, 125.0, 125.0))
    assert describe_finding(single).startswith("slice 31 of 44 from the feet (125 mm below the top of the lungs): prob")
    unknown = Finding(3, 3, 3, 9, "s", 0.2, np.nan, np.nan, np.nan, 3, 3, 3, (np.nan,) * 3)
    assert describe_finding(unknown) == "slice 4 of 9 from the feet: probability 0.20"


def test_findings_below_the_threshold_are_not_described_but_keep_their_rank():
    lines = describe_findings([finding_of(), finding_of(probability=0.09), finding_of(probability=0.1)])
    assert [line.split(":")[0] for line in lines] == ["finding 1", "finding 3"]


def test_the_key_point_is_in_soft_tissue_where_the_map_is_strong(tmp_path):
    hu = make_thorax(12, side=180, pixel_mm=2.0, noise=5.0)
    geometry = (180, 180), (2.0, 2.0)
    hu[4:9, ellipse(*geometry, (0, 70), (14, 14))] = BLOOD
    hu[4:9, ellipse(*geometry, (0, 70), (5, 5))] = 50
    store_planes(
        tmp_path, FeaturesSettings(spacing_mm=2.0), study="a", series="b", hu=hu, z_mm=np.arange(12) * 5.0,
        spacing_mm=(2.0, 2.0), sop_uids=tuple(map(str, range(12))), quarantine={},
    )  # fmt: skip
    exam = open_exam(tmp_path, "a")
    weight = clot_density(exam, [6])[6]
    shape = exam.hu.shape[1:]
    assert weight.shape == shape
    rows, columns = np.indices((shape[0] // 4, shape[1] // 4))
    clot = (shape[0] / 2, exam.middle_column + 35)
    blurry = np.exp(-0.5 * (((rows * 4 - clot[0] - 8) / 12) ** 2 + ((columns * 4 - clot[1] - 8) / 12) ** 2))
    y, x = strongest_point(blurry, weight, shape)
    assert np.hypot(y - clot[0], x - clot[1]) * 2.0 < 8
    unweighted = strongest_point(blurry, None, shape)
    assert np.hypot(unweighted[0] - clot[0], unweighted[1] - clot[1]) * 2.0 > 12


class OneCellMaps:
    """Maps of 4 x 4 cells, one of which, to the patient's left, is positive in proportion to the slice's brightness."""

    grid = FeatureGrid((28.0, 36.0), (13.5, 17.5))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        maps = np.full((len(images), 1, 4, 4), -1.0, np.float32)
        maps[:, 0, 1, 2] = images.mean(axis=(1, 2, 3))
        return maps


def test_findings_get_key_points_and_maps_from_a_run_with_exported_networks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(maps_module, "load_activation_maps", lambda *_, **__: OneCellMaps())
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",)))
    for fold in range(2):
        folder = paths.model_run("mobilenetv2", fold)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"files": {"network.xml": ""}}))
    write_planes(tmp_path / "store", "a")
    stored = Finding(3, 5, 4, 12, "a.4", 0.8, 0.9, 0.1, 0.2, 15, 25, 20, (40.0, 30.0, 35.0))
    not_stored = dataclasses.replace(stored, sop="elsewhere")
    findings, maps = add_key_points(
        settings, tmp_path / "store", {"a": [stored, not_stored], "b": [stored]}, {"a": (0, 1)}
    )
    assert findings["b"] == [stored] and findings["a"][1] == not_stored
    assert findings["a"][0].point_left_mm > 5
    assert describe_finding(findings["a"][0]).endswith("on the patient's left")
    assert list(maps) == ["a"] and list(maps["a"]) == [4]
    assert maps["a"][4].max() == 1 and maps["a"][4].min() == 0
