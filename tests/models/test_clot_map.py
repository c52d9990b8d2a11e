"""The clot map: its targets, its sides, its numbers, and its storage."""

from pathlib import Path

import numpy as np
import pytest

from input.clot_masks import UNKNOWN
from models.clot_columns import CLOT_COLUMNS
from models.clot_numbers import clot_numbers
from models.clot_targets import CENTRAL_CLOT, CHRONIC_CLOT, CLOT, MAP_CHANNELS, MAP_STRIDE, cell_targets, map_shape
from models.stored_maps import MAP_LEVELS, MAPS, MapWriter, MeanMaps, mapping_backbones, read_maps
from pipeline import paths
from pipeline.artifact import Artifact
from pipeline.files import write_json
from pipeline.settings import InputSettings, ModelsSettings, Settings

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])


def test_targets_are_twice_the_share_of_a_cell_that_is_clot() -> None:
    codes = np.zeros((16, 24), np.uint8)
    codes[0:8, 8:10] = 5  # a quarter of cell (0, 1), in the left lung
    codes[8:16, 16:24] = 1 + 8  # all of cell (1, 2), chronic, in the trunk
    targets = cell_targets(codes, IDENTITY, (16, 24))
    clot = targets[..., CLOT]
    assert clot[0, 1] == pytest.approx(0.5)
    assert clot[1, 2] == 1
    assert np.count_nonzero(clot) == 2
    assert (targets[..., MAP_CHANNELS + CLOT] == 1).all()
    assert targets[1, 2, [CENTRAL_CLOT, CHRONIC_CLOT]].tolist() == [1, 1]
    assert targets[0, 1, [CENTRAL_CLOT, CHRONIC_CLOT]].tolist() == [0, 0]
    assert targets[..., MAP_CHANNELS + CENTRAL_CLOT].tolist() == clot.tolist()


def test_clot_of_unknown_region_has_no_target_for_place_and_age() -> None:
    targets = cell_targets(np.full((16, 16), UNKNOWN, np.uint8), IDENTITY, (16, 16))
    assert (targets[..., CLOT] == 1).all()
    assert not targets[..., MAP_CHANNELS + CENTRAL_CLOT :].any()


def test_the_map_covers_inputs_that_are_no_multiple_of_the_stride() -> None:
    assert map_shape(49, 65) == (7, 9)
    codes = np.zeros((49, 65), np.uint8)
    codes[48, 64] = 2
    assert cell_targets(codes, IDENTITY, (49, 65))[6, 8, CLOT] > 0


@pytest.mark.parametrize("columns", [8, 7])
def test_attention_summarises_the_slice_and_its_sides(columns: int) -> None:
    from models.clot_map import ClotAttention

    random = np.random.default_rng(1)
    cells = random.normal(size=(3, 5, columns, 6)).astype(np.float32)
    clot = random.normal(size=(3, 5, columns)).astype(np.float32)
    summaries = np.asarray(ClotAttention()([cells, clot]))
    parts = (slice(None), slice(columns // 2, None), slice(0, columns - columns // 2))
    for summary, part in zip(summaries.swapaxes(0, 1), parts, strict=True):
        odds = np.exp(clot[:, :, part])
        attended = (cells[:, :, part] * odds[..., None]).sum(axis=(1, 2)) / odds.sum(axis=(1, 2))[:, None]
        strengths = np.stack([np.log(odds.mean(axis=(1, 2))), clot[:, :, part].max(axis=(1, 2))], axis=1)
        np.testing.assert_allclose(summary, np.concatenate([attended, strengths], axis=1), rtol=1e-4, atol=1e-5)
    mirrored = np.asarray(ClotAttention()([cells[:, :, ::-1].copy(), clot[:, :, ::-1].copy()]))
    np.testing.assert_allclose(mirrored, summaries[:, [0, 2, 1]], atol=1e-5)


@pytest.mark.parametrize("local_map", [True, False])
def test_a_local_map_does_not_depend_on_coarser_strides(local_map: bool) -> None:
    import keras

    from models.clot_map import clot_map, feature_pyramid, local_cells

    size, random = (32, 64), np.random.default_rng(4)
    strides = [keras.Input((32 // stride, 64 // stride, 6)) for stride in (8, 16, 32)]
    local = local_cells(size, strides[0]) if local_map else None
    model = keras.Model(strides, clot_map(feature_pyramid(size, strides), local)[0])
    features = [random.normal(size=(1, *stride.shape[1:])).astype(np.float32) for stride in strides]
    others = [features[0], *(random.normal(size=values.shape).astype(np.float32) for values in features[1:])]
    assert np.array_equal(model(features), model(others)) == local_map


def test_evidence_is_the_sum_of_the_odds_of_the_whole_slice_and_of_its_sides() -> None:
    from models.clot_map import CELLS_PER_SLICE, ClotEvidence

    clot = np.random.default_rng(5).normal(size=(2, 3, 5)).astype(np.float32)
    odds = [np.exp(part).sum(axis=(1, 2)) / CELLS_PER_SLICE for part in (clot, clot[:, :, 2:], clot[:, :, :3])]
    np.testing.assert_allclose(np.asarray(ClotEvidence()(clot)), np.log(np.stack(odds, axis=1)), rtol=1e-4)


def test_the_loss_of_a_map_is_the_weighted_cross_entropy() -> None:
    from models.clot_map import CELLS_PER_SLICE, map_loss

    random = np.random.default_rng(2)
    truth, weight = random.random((2, 3, 4, MAP_CHANNELS)), random.random((2, 3, 4, MAP_CHANNELS))
    logits = random.normal(size=truth.shape)
    probability = 1 / (1 + np.exp(-logits))
    expected = -(weight * (truth * np.log(probability) + (1 - truth) * np.log(1 - probability))).sum(axis=(1, 2, 3))
    loss = map_loss(np.concatenate([truth, weight], axis=-1).astype(np.float32), logits.astype(np.float32))
    np.testing.assert_allclose(np.asarray(loss), expected / CELLS_PER_SLICE, rtol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_numbers_of_a_map_are_areas_and_attenuation_as_measured(factor: float) -> None:
    settings = ModelsSettings(height=48, width=64, pixel_mm=2.0)
    level, width = 100.0, 700.0
    image = np.full((48, 64), (-800 - level) / width + 0.5).clip(0, 1)
    image[16:32, 40:60] = (300 * factor - level) / width + 0.5  # a vessel on the patient's left
    image[22:26, 50:60] = (60 * factor - level) / width + 0.5  # clot at its left wall
    images = np.repeat(image[None, :, :, None], 3, axis=-1).astype(np.float32)
    factors = np.array([factor], np.float32)
    maps = np.zeros((1, 6, 8, MAP_CHANNELS), np.float32)
    maps[0, 2, 6] = [0.8, 0.25, 0.5]
    numbers = dict(zip(CLOT_COLUMNS, clot_numbers(images, maps, settings, factors)[0], strict=True))
    area = 0.8 * (MAP_STRIDE * 2.0) ** 2 / 2
    assert numbers["clot_left_mm2"] == pytest.approx(area)
    assert numbers["clot_right_mm2"] == 0
    assert numbers["clot_central_mm2"] == pytest.approx(area / 4)
    assert numbers["clot_chronic_mm2"] == pytest.approx(area / 2)
    assert numbers["clot_peak"] == pytest.approx(0.8)
    assert numbers["clot_hu"] == pytest.approx(60, abs=1)
    assert numbers["blood_hu"] == pytest.approx(300, abs=1)
    assert numbers["clot_offset_mm"] > 2
    empty = clot_numbers(images, np.zeros_like(maps), settings, factors)[0]
    assert np.isnan(empty[-3:]).all()


def test_stored_maps_are_read_back_by_uid(tmp_path: Path) -> None:
    maps = np.random.default_rng(3).integers(0, 256, (4, 3, 5), np.uint8)
    artifact = Artifact(tmp_path, "models/x/fold0", version=1, settings={}, inputs={})
    with artifact.building():
        with MapWriter(tmp_path / MAPS) as writer:
            writer.write(["a", "a"], ["s1", "s2"], np.array(["oof", "oof"]), maps[:2])
            writer.write(["a", "b"], ["s3", "s4"], np.array(["oof", "test"]), maps[2:])
        artifact.finish(rows={})
    stored = read_maps(tmp_path, "oof", ["a"])
    assert list(stored) == ["s1", "s2", "s3"]
    np.testing.assert_array_equal(stored["s3"], maps[2])
    assert list(read_maps(tmp_path, "test")) == ["s4"]


def test_maps_are_averaged_to_probabilities() -> None:
    mean = MeanMaps()
    mean.add(np.full((2, 4, 6), MAP_LEVELS, np.uint8))
    mean.add(np.zeros((2, 4, 6), np.uint8))
    np.testing.assert_allclose(mean.probability(), np.full((2, 4, 6), 0.5))


@pytest.mark.parametrize(
    ("aucs", "per_backbone", "expected"),
    [
        ({"a": (0.95, 0.84), "b": (0.9, 0.9)}, {}, ("b", "a")),
        ({"a": (0.95, 0.7), "b": (0.9, 0.9)}, {}, ("b",)),  # much weaker
        ({"a": (0.9, 0.9), "b": (0.9, 0.9)}, {"b": {"height": 224}}, ("a",)),  # other cells
        ({"a": (0.9, 0.9), "b": (0.9, 0.9)}, {"b": {"pixel_mm": 1.0}}, ("a",)),
        ({"a": (0.9, 0.9), "b": (0.9, 0.9)}, {"b": {"artery_hu": 350.0}}, ("a", "b")),  # the same cells
    ],
)
def test_the_best_backbone_maps_with_all_that_are_nearly_as_good(
    aucs: dict, per_backbone: dict, expected: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    models = ModelsSettings(backbones=("a", "b"), per_backbone=per_backbone)
    settings = Settings(input=InputSettings(folds=2), models=models)
    for backbone in aucs:
        for fold, auc in enumerate(aucs[backbone]):
            manifest = paths.model_run(backbone, fold) / "manifest.json"
            write_json(manifest, {"metrics": {"oof_slice_auc": auc}})
    assert mapping_backbones(settings) == expected
