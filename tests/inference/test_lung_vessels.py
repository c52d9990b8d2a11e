"""Contrast-filled vessels of the lungs, and the share of the arteries that clot occludes."""

from types import SimpleNamespace

import numpy as np
import pytest

from inference.lung_vessels import LUMEN_PER_VESSEL, lung_sides, measure_lung_vessels, occluded_share

PIXEL_MM, STEP_MM = 2.0, 5.0


class Exam(SimpleNamespace):
    """The part of a stored exam that is measured."""

    def __len__(self) -> int:
        return len(self.hu)


def chest(blood_hu: int, *, spacing_mm: float = PIXEL_MM, found: bool = True) -> Exam:
    """Two lungs around a bright mediastinum; three vessels of 2 x 2 pixels in the left lung, one in the right."""
    hu = np.full((4, 60, 120), 40, np.int16)
    hu[:, 5:55, 5:50] = hu[:, 5:55, 70:115] = -850
    hu[:, 10:50, 52:68] = blood_hu
    for row in (10, 25, 40):
        hu[:, row : row + 2, 95:97] = blood_hu
    hu[:, 25:27, 20:22] = blood_hu
    return Exam(
        hu=hu, spacing_mm=(spacing_mm, spacing_mm), has_spacing=bool(np.isfinite(spacing_mm)), middle_column=59.5,
        box=SimpleNamespace(found=found),
    )  # fmt: skip


def measure(exam: Exam, thickness_mm: float = STEP_MM) -> tuple[float, float]:
    return measure_lung_vessels(exam, np.full(len(exam), thickness_mm))


def test_vessels_in_the_lungs_count_and_the_mediastinum_does_not() -> None:
    vessel_ml = 4 * 4 * PIXEL_MM**2 * STEP_MM / 1000
    assert measure(chest(350)) == pytest.approx((3 * vessel_ml, vessel_ml))


def test_clot_in_a_vessel_takes_it_out_of_the_open_lumen() -> None:
    exam = chest(350)
    exam.hu[:, 10:12, 95:97] = 50
    left, right = measure(exam)
    assert left == pytest.approx(2 * right)


@pytest.mark.parametrize(
    "exam", [chest(150), chest(40), chest(350, spacing_mm=np.nan), chest(350, found=False)],
    ids=["poor contrast", "no contrast", "no spacing", "no lungs"],
)  # fmt: skip
def test_volumes_are_unknown(exam: Exam) -> None:
    assert np.isnan(measure(exam)).all()


def test_volumes_are_unknown_where_slice_positions_are() -> None:
    assert np.isnan(measure(chest(350), np.nan)).all()


def test_sides_leave_out_the_centre() -> None:
    left, right = lung_sides(chest(350))
    assert left.tolist() == (np.arange(120) >= 77).tolist()
    assert right.tolist() == (np.arange(120) <= 42).tolist()


def test_the_share_is_clot_over_clot_and_open_lumen() -> None:
    assert occluded_share(LUMEN_PER_VESSEL, 3.0) == pytest.approx(0.25)
    assert occluded_share(0.0, 3.0) == 0
    assert np.isnan([occluded_share(1.0, 0.0), occluded_share(1.0, np.nan), occluded_share(np.nan, 3.0)]).all()
