"""Series that anonymisers scattered are joined; acquisitions that share a series are separated."""

from dataclasses import replace
from pathlib import Path

import pytest

from input.dicom import read_series
from input.header import SliceHeader
from input.series_parts import JOINED_SERIES, JOINED_STUDIES, join_scattered_series, split_acquisitions
from input.series_selection import choose_series
from input.slice_file import read_header
from tests.support.dicom_files import write_slice


@pytest.fixture(scope="module")
def header(tmp_path_factory) -> SliceHeader:
    return read_header(write_slice(tmp_path_factory.mktemp("parts") / "s.dcm", FrameOfReferenceUID="1.9"))


def stack(header: SliceHeader, count: int, *, low: float = 0.0, step: float = 2.0, **changes) -> list[SliceHeader]:
    """Slices feet to head; a function as the value of an attribute is called with the index of the slice."""
    slices = []
    for index in range(count):
        name = f"{low}.{index}.{changes.get('acquisition_number', 0)}"
        placed = replace(
            header, z_mm=low + step * index, instance_number=index + 1, sop_uid=name, path=Path(name),
            slice_thickness_mm=step,
        )  # fmt: skip
        slices.append(changed(placed, index, changes))
    return slices


def changed(header: SliceHeader, index: int, changes: dict) -> SliceHeader:
    return replace(header, **{name: value(index) if callable(value) else value for name, value in changes.items()})


@pytest.mark.parametrize("level", ["series", "study"])
def test_slices_with_a_uid_each_are_joined_with_a_warning(header, level):
    scattered = stack(header, 20, **{f"{level}_uid": lambda index: f"1.2.{index}"})
    joined = join_scattered_series(scattered)
    assert {(one.study_uid, one.series_uid) for one in joined} == {(scattered[0].study_uid, scattered[0].series_uid)}
    flag = JOINED_SERIES if level == "series" else JOINED_STUDIES
    assert all(flag in one.flags for one in joined)
    assert [one.sop_uid for one in joined] == [one.sop_uid for one in scattered]


@pytest.mark.parametrize(
    "change",
    [
        {"frame_of_reference": lambda index: f"1.9.{index}"},
        {"study_date": lambda index: f"202001{index + 1:02d}"},
        {"series_description": lambda index: f"series {index}"},
        {"spacing_mm": lambda index: (0.5 + index / 10, 0.5)},
        {"patient_id": lambda index: f"P{index}"},
        {"z_mm": 3.0},
    ],
    ids=lambda change: next(iter(change)),
)
def test_slices_that_do_not_belong_together_stay_apart(header, change):
    slices = stack(header, 8, series_uid=lambda index: f"1.2.{index}")
    scattered = [changed(one, index, change) for index, one in enumerate(slices)]
    assert join_scattered_series(scattered) == scattered


@pytest.mark.parametrize(("steps", "is_joined"), [((0, 2, 4, 6), True), ((0, 2, 4, 7), False)])
def test_without_a_frame_of_reference_only_a_regular_stack_is_joined(header, steps, is_joined):
    slices = stack(header, 4, series_uid=lambda index: f"1.2.{index}", frame_of_reference="")
    slices = [replace(one, z_mm=float(z_mm)) for one, z_mm in zip(slices, steps, strict=True)]
    assert (len({one.series_uid for one in join_scattered_series(slices)}) == 1) is is_joined


def test_two_parts_of_a_chest_are_joined_and_two_phases_are_not(header):
    lower, upper = stack(header, 30, series_uid="1.2.1"), stack(header, 30, low=60.0, series_uid="1.2.2")
    assert len({one.series_uid for one in join_scattered_series(lower + upper)}) == 1
    other_phase = stack(header, 30, low=0.4, series_uid="1.2.2")
    assert join_scattered_series(lower + other_phase) == lower + other_phase


@pytest.mark.parametrize(
    "second",
    [
        {"acquisition_number": 2},
        {"acquisition_time": 100.0},
        {"content_time": 100.0},
        {"instance_number": lambda index: 1000 + index},
        {"instance_number": lambda index: 1000 - index},
    ],
    ids=["number", "time", "content time", "position pattern", "reversed"],
)
def test_two_passes_in_one_series_are_separated(header, second):
    first = stack(header, 40, acquisition_number=1, acquisition_time=10.0, content_time=10.0)
    defaults = {"acquisition_number": 1, "acquisition_time": 10.0, "content_time": 10.0}
    again = [changed(one, index, defaults | second) for index, one in enumerate(stack(header, 40, low=0.4))]
    parts = split_acquisitions([one for pair in zip(first, again, strict=True) for one in pair])
    assert sorted(len(part) for part in parts) in ([40, 40], [39, 41])


def test_table_positions_of_a_sequential_scan_stay_together(header):
    slices = stack(header, 60, acquisition_number=lambda index: index // 4, acquisition_time=lambda index: index // 4)
    assert [len(part) for part in split_acquisitions(slices)] == [60]


def test_adjacent_body_parts_are_separated_by_the_pause_between_them(header):
    chest = stack(header, 100, low=200.0, acquisition_number=1, acquisition_time=0.0)
    abdomen = stack(header, 100, acquisition_number=2, acquisition_time=40.0)
    assert [len(part) for part in split_acquisitions(abdomen + chest)] == [100, 100]
    at_once = [replace(one, acquisition_time=1.0) for one in abdomen]
    assert [len(part) for part in split_acquisitions(at_once + chest)] == [200]


@pytest.mark.parametrize("attribute", ["instance_number", "acquisition_number", "acquisition_time"])
def test_a_series_with_arbitrary_numbers_stays_whole(header, attribute):
    slices = stack(header, 60, **{attribute: lambda index: (index * 37) % 60})
    assert [len(part) for part in split_acquisitions(slices)] == [60]


def test_the_enhanced_part_is_chosen_and_the_others_are_listed(header):
    parts = {1: 55.0, 2: 320.0, 3: float("nan")}
    slices = [one for number in parts for one in stack(header, 80, low=0.3 * number, acquisition_number=number)]
    chosen, reason, others = choose_series(slices, lambda part: parts[part[0].acquisition_number])
    assert {one.acquisition_number for one in chosen} == {2}
    assert "part 2 of 3" in reason and "pulmonary arteries 320 HU" in reason
    assert [(other.slices, other.reason) for other in others] == [
        (80, "pulmonary arteries less enhanced, 55 HU"),
        (80, "no lungs found in it"),
    ]


def test_enhancement_decides_before_descriptions_and_thickness_after_it(header):
    plain = stack(header, 200, step=0.6, series_uid="1.2.1", series_description="CTPA thin", image_type=("ORIGINAL",))
    thick = stack(header, 80, step=2.0, series_uid="1.2.2", series_description="Thorax")
    thin = stack(header, 160, step=1.0, series_uid="1.2.3", series_description="Thorax W/O")
    level = {"1.2.1": 60.0, "1.2.2": 340.0, "1.2.3": 325.0}
    chosen, _, others = choose_series(plain + thick + thin, lambda part: level[part[0].series_uid])
    assert chosen[0].series_uid == "1.2.3"
    assert {other.series_uid: other.reason for other in others} == {
        "1.2.1": "pulmonary arteries less enhanced, 60 HU",
        "1.2.2": "thicker slices, 2 mm apart",
    }


def test_the_files_of_scattered_series_are_read_as_one_series(tmp_path):
    for index in range(6):
        write_slice(
            tmp_path / f"{index}.dcm", z=2.0 * index, SeriesInstanceUID=f"1.2.{index}", SOPInstanceUID=f"1.3.{index}",
            FrameOfReferenceUID="1.9", SliceThickness=2, InstanceNumber=index,
        )  # fmt: skip
    series = read_series(tmp_path)
    assert len(series.hu) == 6 and series.flags == (JOINED_SERIES,) and series.series_uid == "1.2.0"
