"""The enhancement of a series that is not stored: blood of a chest with contrast, NaN for what shows no lungs."""

from pathlib import Path

import numpy as np
import pytest

from features.series_enhancement import measure_enhancement
from input.slice_file import read_header
from pipeline.settings import FeaturesSettings
from tests.support.dicom_files import write_slice
from tests.support.synthetic_thorax import BLOOD, make_thorax

STEP_MM, PIXEL_MM = 4.0, 4.0


def measured(folder: Path, hu: np.ndarray, step_mm: float = STEP_MM) -> float:
    headers = [
        read_header(
            write_slice(
                folder / f"{index}.dcm",
                plane,
                z=step_mm * index,
                PixelSpacing=[PIXEL_MM, PIXEL_MM],
                SOPInstanceUID=f"1.2.{index}",
            )  # fmt: skip
        )
        for index, plane in enumerate(hu)
    ]
    return measure_enhancement(headers, FeaturesSettings())


def test_blood_with_contrast_is_measured_and_unenhanced_blood_too(tmp_path):
    thorax = make_thorax(60, side=96, pixel_mm=PIXEL_MM)
    plain = np.where((thorax > 150) & (thorax < 500), 45, thorax).astype(np.int16)
    assert measured(tmp_path / "enhanced", thorax) == pytest.approx(BLOOD, abs=50)
    assert measured(tmp_path / "plain", plain) < 110


@pytest.mark.parametrize(
    ("planes", "step_mm"),
    [
        (make_thorax(20, side=96, pixel_mm=PIXEL_MM), STEP_MM),  # the edge of the lungs
        (make_thorax(60, side=96, pixel_mm=PIXEL_MM, right=False, left=False), STEP_MM),
        (np.full((40, 64, 64), -1000, np.int16), STEP_MM),
        (np.full((40, 64, 64), 40, np.int16), STEP_MM),
        (np.full((40, 64, 64), 3071, np.int16), STEP_MM),
        (np.full((2, 64, 64), 40, np.int16), 120.0),
        (make_thorax(2, side=96, pixel_mm=PIXEL_MM), 120.0),
    ],
    ids=["edge of the lungs", "no lungs", "air", "tissue", "bone", "two slices", "two slices with lungs"],
)
def test_what_is_not_a_chest_has_no_enhancement_and_raises_nothing(tmp_path, planes, step_mm):
    assert not measured(tmp_path, planes, step_mm) > 0
