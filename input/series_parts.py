"""Which slices form one series, whatever their SeriesInstanceUIDs say.

Anonymisers give every slice a series or a study of its own; scanners store several acquisitions, or two passes over
the same region, in one series. Joining needs the same patient, frame of reference, date, description and geometry, and
distinct positions; nothing is joined across frames of reference.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from input.header import SliceHeader
from input.slice_order import GAP_STEPS, SAME_POSITION_MM, rounded, slice_step_mm

JOINED_SERIES, JOINED_STUDIES = "joined_from_several_series", "joined_from_several_studies"
#: Slices without a frame of reference are joined only if their distances vary less than this, mm.
REGULAR_MM = 0.05
#: Acquisitions longer than this, and further apart in time than this, are separate although they are adjacent: body
#: parts. Shorter ones are the table positions of one sequential scan.
LONG_MM, PAUSE_S = 100.0, 10.0
#: More acquisitions or passes are not credible; the numbering is then arbitrary.
MAX_PASSES = 8
#: Neighbouring positions closer than this fraction of the usual step are of two passes.
NEAR_STEPS = 0.75

Slices = list[SliceHeader]


def join_scattered_series(headers: Iterable[SliceHeader]) -> Slices:
    """Give slices that belong together, but have different series or study UIDs, the UIDs of the lowest of them.

    Returns:
        The headers in the same order; joined ones have the flag JOINED_SERIES or JOINED_STUDIES.
    """
    headers = list(headers)
    fragments = _grouped(headers, lambda header: (header.study_uid, header.series_uid))
    candidates = _grouped(fragments, lambda fragment: _belonging(fragment))
    first_by_fragment: dict[tuple[str, str], tuple[SliceHeader, str]] = {}
    for pool in candidates:
        if len(pool) > 1 and _is_one_stack(pool):
            first = min((header for fragment in pool for header in fragment), key=lambda header: header.z_mm)
            is_one_study = len({fragment[0].study_uid for fragment in pool}) == 1
            for fragment in pool:
                key = fragment[0].study_uid, fragment[0].series_uid
                first_by_fragment[key] = first, JOINED_SERIES if is_one_study else JOINED_STUDIES
    joined = []
    for header in headers:
        first, flag = first_by_fragment.get((header.study_uid, header.series_uid), (header, ""))
        flags = (*header.flags, flag) if flag else header.flags
        joined.append(replace(header, study_uid=first.study_uid, series_uid=first.series_uid, flags=flags))
    return joined


def _belonging(fragment: Slices) -> tuple:
    """What slices that belong together have in common; a fragment that is not uniform belongs to nothing else."""
    keys = {
        (
            header.patient_id, header.frame_of_reference, header.study_date, header.series_description, header.modality,
            header.shape, rounded(header.spacing_mm), rounded(header.row_direction + header.column_direction),
            str(header.slice_thickness_mm), header.image_type,
            header.frame_of_reference or rounded(header.position_mm[:2]),
        )
        for header in fragment
    }  # fmt: skip
    return keys.pop() if len(keys) == 1 else (fragment[0].study_uid, fragment[0].series_uid)


def _is_one_stack(fragments: Sequence[Slices]) -> bool:
    """Whether the positions of fragments complement each other."""
    z_mm = np.sort([header.z_mm for fragment in fragments for header in fragment])
    steps = np.diff(z_mm)
    if steps.min() < SAME_POSITION_MM:
        return False
    if not fragments[0][0].frame_of_reference and (len(z_mm) < 3 or np.ptp(steps) > REGULAR_MM):
        return False
    longer = [fragment for fragment in fragments if len(fragment) > 1]
    if not longer:
        return True
    bounds = [_range_mm(fragment) for fragment in longer]
    is_interleaved = any(np.count_nonzero((z_mm >= low) & (z_mm <= high)) > len(fragment)
                         for (low, high), fragment in zip(bounds, longer, strict=True))  # fmt: skip
    return not is_interleaved and steps.max() <= GAP_STEPS * np.median(steps)


def split_acquisitions(headers: Sequence[SliceHeader]) -> list[Slices]:
    """Separate the acquisitions, and the passes over one region, that share a SeriesInstanceUID.

    Acquisitions that continue each other along z, such as the table positions of a sequential scan, stay together.
    """
    parts = _grouped(sorted(headers, key=_by_number), lambda header: header.acquisition_number)
    stacks: list[Slices] = []
    for part in parts:
        previous = next((stack for stack in reversed(stacks) if _continues(stack, part)), None)
        if previous is None:
            stacks.append(list(part))
        else:
            previous += part
    if len(stacks) > MAX_PASSES:
        stacks = [list(headers)]
    return [piece for stack in stacks for piece in _split_passes(stack)]


def _by_number(header: SliceHeader) -> tuple:
    return header.acquisition_number, header.instance_number, header.z_mm


def _continues(stack: Slices, part: Slices) -> bool:
    """Whether a part is adjacent to a stack of the same geometry, and not another body part."""
    if (stack[0].shape, rounded(stack[0].spacing_mm)) != (part[0].shape, rounded(part[0].spacing_mm)):
        return False
    (low, high), (part_low, part_high) = _range_mm(stack), _range_mm(part)
    step = max(_step_mm(stack), _step_mm(part))
    gap = max(part_low - high, low - part_high)
    if not -GAP_STEPS * step < gap <= GAP_STEPS * step:
        return False
    is_long = min(high - low, part_high - part_low) >= LONG_MM
    return not (is_long and _pause_s(stack, part) > PAUSE_S)


def _split_passes(stack: Slices) -> list[Slices]:
    """The passes over one region; the stack as it is if there is one, or if they cannot be separated."""
    ways: list[Callable[[], list[Slices]]] = [lambda: _grouped(stack, lambda header: header.acquisition_time)]
    if _has_near_positions(stack):
        ways += [
            lambda: _grouped(stack, lambda header: header.content_time),
            lambda: _runs(sorted(stack, key=lambda header: header.instance_number)),
            lambda: _runs(sorted(stack, key=lambda header: header.content_time)),
        ]
    for way in ways:
        passes = way()
        if 1 < len(passes) <= MAX_PASSES and all(_is_pass(part) for part in passes) and _overlap(passes):
            return passes
    return [stack]


def _is_pass(part: Slices) -> bool:
    return len(part) > 2 and not _has_near_positions(part)


def _overlap(passes: Sequence[Slices]) -> bool:
    """Whether at least two passes cover a common region of two steps or more."""
    ranges = sorted(_range_mm(part) for part in passes)
    step = min(_step_mm(part) for part in passes)
    return any(high - next_low > 2 * step for (_, high), (next_low, _) in zip(ranges, ranges[1:], strict=False))


def _runs(ordered: Slices) -> list[Slices]:
    """Split slices at every reversal of their direction along z."""
    runs: list[Slices] = []
    direction = 0.0
    for header in ordered:
        step = np.sign(header.z_mm - runs[-1][-1].z_mm) if runs else 0.0
        if not runs or step == 0 or (direction and step != direction):
            runs.append([header])
            direction = 0.0
        else:
            runs[-1].append(header)
            direction = step
    return runs


def _has_near_positions(headers: Slices) -> bool:
    """Whether a tenth of the neighbouring slices are closer together than one acquisition would place them."""
    steps = np.diff(np.sort([header.z_mm for header in headers]))
    return len(steps) > 1 and bool(np.mean(steps < NEAR_STEPS * np.percentile(steps, 75)) > 0.1 or
                                   np.mean(steps < SAME_POSITION_MM) > 0.1)  # fmt: skip


def _range_mm(headers: Slices) -> tuple[float, float]:
    z_mm = [header.z_mm for header in headers]
    return min(z_mm), max(z_mm)


def _step_mm(headers: Slices) -> float:
    step = slice_step_mm([header.z_mm for header in headers])
    return next((value for value in (step, headers[0].slice_thickness_mm) if not math.isnan(value)), 0.0)


def _pause_s(first: Slices, second: Slices) -> float:
    """Time between two acquisitions, seconds; 0 where unknown."""
    times = [[header.acquisition_time for header in part] for part in (first, second)]
    if not np.isfinite(np.concatenate(times)).all():
        return 0.0
    return max(min(times[1]) - max(times[0]), min(times[0]) - max(times[1]))


def _grouped(items: Iterable[Any], key: Callable[[Any], Any]) -> list[list[Any]]:
    """Items with equal keys together, in the order of their first items; NaN equals NaN."""
    groups: dict[str, list[Any]] = {}
    for item in items:
        groups.setdefault(repr(key(item)), []).append(item)
    return list(groups.values())
