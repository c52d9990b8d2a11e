"""Views that the device finishes equal those that the loader computes."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.lung_box import Box
from features.store import write_exam
from input.contest import EXAM_LABELS, QA_LABELS, SLICE_LABEL, STUDY
from models.slice_views import SliceViews, draw_augmentation
from pipeline.settings import ModelsSettings

SETTINGS = ModelsSettings(height=24, width=40, batch=4, epoch_slices=8, cutout=0.5)
RECIPES = {
    "windows": SETTINGS,
    "one window": dataclasses.replace(SETTINGS, windows=("pe",)),
    "trainable windows": dataclasses.replace(SETTINGS, trainable_windows=True),
    "no augmentation of values": dataclasses.replace(SETTINGS, augmentation=0.0),
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    hu = np.random.default_rng(0).integers(-1000, 600, (6, 24, 24)).astype(np.int16)
    write_exam(
        folder, "exam", "series", hu, z_mm=np.arange(6) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0),
        sop_uids=tuple(map(str, range(6))),
        box=Box(y0=0, y1=48, x0=0, x1=48, z0=0, z1=6, middle_x=24.0, found=True),
    )  # fmt: skip
    return folder


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=list(RECIPES))
def test_the_device_finishes_views_as_the_loader_does(store: Path, recipe: ModelsSettings) -> None:
    import keras

    from models.device_views import DeviceViews

    views = SliceViews(store, recipe)
    augmentations = [draw_augmentation(recipe, epoch=1, key=key, repeat=0) for key in range(16)]
    assert len({augmentation.hole[2] for augmentation in augmentations}) == (2 if recipe.augmentation else 1)
    hu = np.stack([views.hu("exam", draw % 6, augmentation) for draw, augmentation in enumerate(augmentations)])
    assert hu.dtype == np.int16
    expected = np.stack([views.view("exam", draw % 6, augmentation) for draw, augmentation in enumerate(augmentations)])
    finished = keras.ops.convert_to_numpy(DeviceViews(recipe)(hu, augmentations))
    assert finished.dtype == np.float32
    np.testing.assert_allclose(finished, expected, atol=1e-5)


def test_batches_are_the_same_wherever_views_are_finished(store: Path) -> None:
    import keras

    from models.slice_training import EpochBatches

    slices = pd.DataFrame({STUDY: "exam", "plane": np.arange(6), SLICE_LABEL: [0, 0, 1, 1, 0, 0.0]})
    slices = slices.assign(**dict.fromkeys((*EXAM_LABELS, *QA_LABELS), 1.0))
    views = SliceViews(store, SETTINGS)
    here, there = (EpochBatches(slices, views, SETTINGS, on_device=on_device).of(3) for on_device in (False, True))
    for (images, targets), (tensor, device_targets) in zip(here, there, strict=True):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(tensor), images, atol=1e-5)
        for name, target in targets.items():
            np.testing.assert_array_equal(device_targets[name], target)
