"""Places of PE: ranges from slice probabilities, sides that are calibrated, points from maps, and their text."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.logistic import Logistic, logit
from features.ingest import store_planes
from features.store import open_exam
from inference import key_slice_maps as activations
from inference.findings import Location, describe_location, describe_locations, locate_exams, peaks, with_points
from inference.key_point import clot_like, strongest_point
from inference.side_calibration import SIDES, opinions, side_probabilities
from input.contest import CENTRAL, EXAM_LABELS, LEFT, NEGATIVE, RIGHT, SOP, STUDY
from models.feature_grid import FeatureGrid
from pipeline import paths
from pipeline.settings import FeaturesSettings, ModelsSettings, Settings
from tests.support.evidence_cases import write_planes
from tests.support.synthetic_thorax import BLOOD, draw_thorax, ellipse


def exam_tables(label, *, negative=0.2, study="a", step_mm=5.0):
    """(exams, slices, measured) of one exam with these slice probabilities, feet to head."""
    sops = [f"{study}{index}" for index in range(len(label))]
    exams = pd.DataFrame({STUDY: [study], **dict.fromkeys(EXAM_LABELS, 0.0), NEGATIVE: negative})
    slices = pd.DataFrame({STUDY: study, SOP: sops, "z_mm": np.arange(len(label)) * step_mm, "label": label})
    top = pd.DataFrame({SOP: sops, "z_from_lung_top_mm": (np.arange(len(label)) - len(label) + 1) * step_mm})
    return exams, slices, top


def bump(length, centre, height, width=1.5):
    return height * np.exp(-0.5 * ((np.arange(length) - centre) / width) ** 2)


def said_of(sops, **logits):
    return pd.DataFrame({side: logits.get(side, np.nan) for side in SIDES}, index=sops)


def test_two_bumps_are_two_places_the_likelier_first():
    exams, slices, top = exam_tables(bump(40, 10, 0.5) + bump(40, 28, 0.9))
    first, second = locate_exams(exams, slices.sample(frac=1, random_state=0), said_of([]), {}, top)["a"]
    assert (first.key, second.key) == (28, 10)
    assert first.first < 28 < first.last and first.last - first.first <= 5
    assert first.sop == "a28"
    assert first.key_mm == 140.0
    assert first.below_top_mm[2] == 55.0
    assert 0.5 < first.probability <= 0.8 * 0.9


def test_an_exam_of_zeros_has_one_place_that_nobody_tells():
    (place,) = locate_exams(*exam_tables(np.zeros(6))[:2], said_of([]), {})["a"]
    assert place.probability == 0
    assert np.isnan(place.below_top_mm).all()
    assert describe_locations([place]) == ["no slice with a probability of PE of 0.1 or more"]


def test_slices_without_z_are_located_by_their_order():
    exams, slices, _ = exam_tables(bump(20, 7, 0.9))
    (place, *_) = locate_exams(exams, slices.assign(z_mm=np.nan), said_of([]), {})["a"]
    assert place.key == 7


def test_peaks_do_not_overlap_and_a_shoulder_is_none():
    found = peaks(np.array([0.1, 0.2, 0.9, 0.5, 0.4, 0.3, 0.6, 0.1]))
    assert found == [(2, 3, 2), (4, 6, 6)]
    assert peaks(np.array([1.0, 1.0, 1.0])) == [(0, 2, 0)]


def test_opinions_are_averaged_in_logits():
    tables = [pd.DataFrame({SOP: ["s"], LEFT: [0.9]}), pd.DataFrame({SOP: ["s"], LEFT: [0.5], RIGHT: [0.2]})]
    said = opinions(tables)
    assert said.loc["s", LEFT] == pytest.approx(logit(0.9) / 2)
    assert said.loc["s", RIGHT] == pytest.approx(logit(0.2))
    assert np.isnan(said.loc["s", CENTRAL])
    assert opinions([]).empty


def test_a_calibration_tells_sides_apart_that_the_networks_call_alike():
    rng = np.random.default_rng(0)
    x = np.column_stack([1.2 + rng.normal(0, 0.1, 200), 1.2 + rng.normal(0, 0.1, 200), np.zeros(200)])
    on_left = (x[:, 0] > x[:, 1]).astype(float)
    fitted = {LEFT: Logistic.fit(x, on_left), RIGHT: Logistic.fit(x, 1 - on_left)}
    said = said_of(["s", "t"], **{LEFT: [1.4, 1.4], RIGHT: [1.1, 1.1], CENTRAL: [0.0, 0.0]})
    sides = side_probabilities(said, np.ones(2), fitted)
    assert sides[LEFT] > 0.8 > 0.2 > sides[RIGHT]
    assert sides[CENTRAL] == pytest.approx(0.5)
    raw = side_probabilities(said, np.ones(2), {})
    assert min(raw[LEFT], raw[RIGHT]) > 0.7


def test_a_place_is_told_in_words():
    place = Location(27, 32, 30, 44, "s", 0.83, 0.12, 0.91, 0.05, 135, 160, 150, (140.0, 115.0, 125.0))
    assert describe_location(place) == (
        "slices 28-33 of 44 from the feet (115 to 140 mm below the lungs' top): probability 0.83, right, peripheral "
        "(left 0.12, right 0.91, central 0.05); key slice 31"
    )
    pointed = dataclasses.replace(place, point=(3.0, 4.0), point_left_mm=-20.0)
    assert describe_location(pointed) == f"{describe_location(place)}, strongest on the patient's right"
    single = dataclasses.replace(place, first=30, last=30, below_top_mm=(125.0, 125.0, 125.0))
    assert describe_location(single).startswith("slice 31 of 44 from the feet (125 mm below the lungs' top): prob")
    unknown = Location(3, 3, 3, 9, "s", 0.2, np.nan, np.nan, np.nan, 3, 3, 3, (np.nan,) * 3)
    assert describe_location(unknown) == "slice 4 of 9 from the feet: probability 0.20"


def test_the_point_lies_in_soft_tissue_where_the_map_is_strong(tmp_path):
    hu = draw_thorax(12, side=180, pixel_mm=2.0, noise=5.0)
    place = (180, 180), (2.0, 2.0)
    hu[4:9, ellipse(*place, (0, 70), (14, 14))] = BLOOD
    hu[4:9, ellipse(*place, (0, 70), (5, 5))] = 50
    store_planes(
        tmp_path, FeaturesSettings(spacing_mm=2.0), study="a", series="b", hu=hu, z_mm=np.arange(12) * 5.0,
        spacing_mm=(2.0, 2.0), sop_uids=tuple(map(str, range(12))), quarantine={},
    )  # fmt: skip
    exam = open_exam(tmp_path, "a")
    candidates = clot_like(exam, [6])[6]
    shape = exam.hu.shape[1:]
    assert candidates.shape == shape
    rows, columns = np.indices((shape[0] // 4, shape[1] // 4))
    clot = (shape[0] / 2, exam.middle_column + 35)
    blurry = np.exp(-0.5 * (((rows * 4 - clot[0] - 8) / 12) ** 2 + ((columns * 4 - clot[1] - 8) / 12) ** 2))
    y, x = strongest_point(blurry, candidates, shape)
    assert np.hypot(y - clot[0], x - clot[1]) * 2.0 < 8
    alone = strongest_point(blurry, None, shape)
    assert np.hypot(alone[0] - clot[0], alone[1] - clot[1]) * 2.0 > 12


class OneCell:
    """Maps of 4 x 4 cells, of which one to the patient's left speaks for PE, the more the brighter the slice is."""

    grid = FeatureGrid((28.0, 36.0), (13.5, 17.5))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        found = np.full((len(images), 1, 4, 4), -1.0, np.float32)
        found[:, 0, 1, 2] = images.mean(axis=(1, 2, 3))
        return found


def test_a_place_gets_its_point_and_its_map_also_from_a_run_that_holds_exported_networks_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    monkeypatch.setattr(activations, "load_activation_maps", lambda *_, **__: OneCell())
    settings = Settings(models=ModelsSettings(backbones=("mobilenetv2",)))
    for fold in range(2):
        folder = paths.model_run("mobilenetv2", fold)
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"files": {"network.xml": ""}}))
    write_planes(tmp_path / "store", "a")
    place = Location(3, 5, 4, 12, "a.4", 0.8, 0.9, 0.1, 0.2, 15, 25, 20, (40.0, 30.0, 35.0))
    lost = dataclasses.replace(place, sop="elsewhere")
    found, maps = with_points(settings, tmp_path / "store", {"a": [place, lost], "b": [place]}, {"a": (0, 1)})
    assert found["b"] == [place] and found["a"][1] == lost
    assert found["a"][0].point_left_mm > 5 and describe_location(found["a"][0]).endswith(
        "strongest on the patient's left"
    )
    assert list(maps) == ["a"] and list(maps["a"]) == [4]
    assert maps["a"][4].max() == 1 and maps["a"][4].min() == 0
