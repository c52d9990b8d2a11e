"""Sort slices in anatomical order and check the geometry of a series."""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from input.header import SliceHeader

#: Positions closer than this are the same position; header values are rounded to 0.001 mm.
SAME_POSITION_MM = 0.01
#: A step of more than this many median steps is a gap.
GAP_STEPS = 1.5


def order_series(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], tuple[str, ...]]:
    """Sort slices from the feet to the head and flag irregularities of the series.

    Slices are sorted by position along the slice normal. InstanceNumber, which is not reliable, and SOPInstanceUID
    only break ties, e.g. where a region was scanned twice. No slice is dropped.

    Returns:
        The sorted headers, and flags: those of the slices, and `single_slice`, `duplicate_positions`, `gaps`,
        `space_between_slices`, `two_orientations`, `instance_order_differs`.
    """
    ordered = sorted(headers, key=lambda header: (round(header.z_mm, 3), header.instance_number, header.sop_uid))
    flags = {flag for header in ordered for flag in header.flags}
    steps = np.diff([header.z_mm for header in ordered])
    distinct = steps[steps > SAME_POSITION_MM]
    if len(ordered) == 1:
        flags.add("single_slice")
    if len(distinct) < len(steps):
        flags.add("duplicate_positions")
    if len(distinct) and distinct.max() > GAP_STEPS * np.median(distinct):
        flags.add("gaps")
    if len(distinct) and np.median(distinct) > GAP_STEPS * ordered[0].slice_thickness_mm:
        flags.add("space_between_slices")
    if len({rounded(header.row_direction + header.column_direction) for header in ordered}) > 1:
        flags.add("two_orientations")
    numbers = np.diff([header.instance_number for header in ordered])
    if len(numbers) and not (np.all(numbers > 0) or np.all(numbers < 0)):
        flags.add("instance_order_differs")
    return ordered, tuple(sorted(flags))


def missing_parts(z_mm: Sequence[float]) -> list[tuple[float, float]]:
    """Find the gaps between slices.

    Args:
        z_mm: ascending positions.

    Returns:
        The positions below and above each gap, mm.
    """
    limit = GAP_STEPS * slice_step_mm(z_mm)
    return [(below, above) for below, above in pairwise(z_mm) if above - below > limit]


def slice_step_mm(z_mm: Sequence[float]) -> float:
    """Compute the median distance of neighbouring positions, mm; NaN for fewer than two distinct positions."""
    steps = np.diff(np.sort(np.asarray(z_mm, dtype=float)))
    distinct = steps[steps > SAME_POSITION_MM]
    return float(np.median(distinct)) if len(distinct) else float("nan")


def split_by_geometry(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], list[tuple[SliceHeader, str]]]:
    """Separate the slices with the series' most frequent shape and spacing from the others.

    All slices are rejected when that geometry is shared by less than half of them, or when all of them have the same
    position, because the order is then unknown.

    Returns:
        The accepted headers, and the rejected ones with the reason.
    """
    if not headers:
        return [], []
    geometries = [(*header.shape, *rounded(header.spacing_mm)) for header in headers]
    usual, count = Counter(geometries).most_common(1)[0]
    kept = [header for header, geometry in zip(headers, geometries, strict=True) if geometry == usual]
    if reason := _geometry_fault(kept, count, len(headers)):
        return [], [(header, reason) for header in headers]
    rejected = [
        (header, f"{_describe_geometry(geometry)} in a series of {_describe_geometry(usual)}")
        for header, geometry in zip(headers, geometries, strict=True)
        if geometry != usual
    ]
    return kept, rejected


def _geometry_fault(kept: Sequence[SliceHeader], count: int, total: int) -> str:
    """Return why the order of the slices is unknown; "" if it is known."""
    if 2 * count < total:
        return f"geometry lost: no shape and spacing is shared by half of the {total} slices"
    z_mm = [header.z_mm for header in kept]
    if len(kept) > 2 and max(z_mm) - min(z_mm) < SAME_POSITION_MM:
        return f"geometry lost: all {len(kept)} slices are at z = {z_mm[0]:g} mm"
    return ""


def _describe_geometry(geometry: tuple[float, ...]) -> str:
    rows, columns, spacing_y, spacing_x = geometry
    return f"{rows} x {columns} pixels of {spacing_y:g} x {spacing_x:g} mm"


def rounded(values: Sequence[float]) -> tuple[float, ...]:
    """Values of a header to three decimals, as they are compared."""
    return tuple(round(value, 3) + 0.0 for value in values)  # + 0.0 turns -0.0 into 0.0
