"""Slices in anatomical order, and what is odd about a series."""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from input.header import SliceHeader

#: Positions nearer than this are one position; header texts round to a thousandth.
SAME_POSITION_MM = 0.01
#: A step above this many median steps is a gap.
GAP_STEPS = 1.5


def order_series(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Sort slices from the feet to the head and tell what is odd about the series.

    Position along the slice normal decides. InstanceNumber, which scanners and exports number as they
    like, and SOPInstanceUID only break ties, as where a region was scanned twice; nothing is dropped.

    Returns:
        The sorted headers, and flags: those of the slices, `single_slice`, `duplicate_positions`,
        `gaps`, `two_orientations`, `instance_order_differs`.
    """
    ordered = sorted(headers, key=lambda each: (round(each.z_mm, 3), each.instance_number, each.sop_uid))
    flags = {flag for header in ordered for flag in header.flags}
    steps = np.diff([header.z_mm for header in ordered])
    distinct = steps[steps > SAME_POSITION_MM]
    if len(ordered) == 1:
        flags.add("single_slice")
    if len(distinct) < len(steps):
        flags.add("duplicate_positions")
    if len(distinct) and distinct.max() > GAP_STEPS * np.median(distinct):
        flags.add("gaps")
    if len({_rounded(header.row_direction + header.column_direction) for header in ordered}) > 1:
        flags.add("two_orientations")
    numbers = np.diff([header.instance_number for header in ordered])
    if len(numbers) and not (np.all(numbers > 0) or np.all(numbers < 0)):
        flags.add("instance_order_differs")
    return ordered, tuple(sorted(flags))


def slice_step_mm(z_mm: Sequence[float]) -> float:
    """Median distance of neighbouring positions in mm; NaN when there are fewer than two."""
    steps = np.diff(np.sort(np.asarray(z_mm, dtype=float)))
    distinct = steps[steps > SAME_POSITION_MM]
    return float(np.median(distinct)) if len(distinct) else float("nan")


def agreeing_geometry(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], list[tuple[SliceHeader, str]]]:
    """Keep the slices that share the series' most frequent shape and spacing; the others come with a reason.

    When that geometry holds for less than half of several slices, or all of them lie at one position, no
    order can be trusted and every slice is given back with that reason.
    """
    if not headers:
        return [], []
    kinds = [(*header.shape, *_rounded(header.spacing_mm)) for header in headers]
    usual, count = Counter(kinds).most_common(1)[0]
    kept = [header for header, kind in zip(headers, kinds, strict=True) if kind == usual]
    lost = _lost_geometry(kept, count, len(headers))
    if lost:
        return [], [(header, lost) for header in headers]
    odd = [
        (header, f"{_geometry(kind)} in a series of {_geometry(usual)}")
        for header, kind in zip(headers, kinds, strict=True)
        if kind != usual
    ]
    return kept, odd


def _lost_geometry(kept: Sequence[SliceHeader], count: int, total: int) -> str:
    if 2 * count < total:
        return f"geometry lost: no shape and spacing is shared by half of the {total} slices"
    z_mm = [header.z_mm for header in kept]
    if len(kept) > 2 and max(z_mm) - min(z_mm) < SAME_POSITION_MM:
        return f"geometry lost: all {len(kept)} slices lie at z = {z_mm[0]:g} mm"
    return ""


def _geometry(kind: tuple[float, ...]) -> str:
    return f"{kind[0]} x {kind[1]} pixels of {kind[2]:g} x {kind[3]:g} mm"


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 3) + 0.0 for value in values)
