"""The series and files of a study as lines of text, for the terminal and for the evidence report."""

from pathlib import Path

import numpy as np

from inference.series_reader import Study
from input.series_selection import OtherSeries
from input.slice_errors import describe_faults
from input.slice_order import missing_parts

#: Lines of one kind about a study, at most.
PRINTED_LINES = 5


def flag_words(flag: str) -> str:
    """A flag of the series as words: `instance_order_differs` -> `instance order differs`."""
    return flag.replace("_", " ")


def describe_other_series(study: Study) -> list[str]:
    """One line for each series of the study that was not chosen; series with the same reason share a line."""
    by_reason: dict[tuple[str, str], list[OtherSeries]] = {}
    for other in study.other_series:
        by_reason.setdefault((other.description, other.reason), []).append(other)
    lines = []
    for (description, reason), others in by_reason.items():
        slices = f"{sum(other.slices for other in others)} slices"
        if len(others) == 1:
            lines.append(f"other series {others[0].series_uid} ({description}, {slices}): {reason}")
        else:
            lines.append(f"{len(others)} other series ({description}, {slices}), e.g. {others[0].series_uid}: {reason}")
    return _shortened(lines, PRINTED_LINES, "other series")


def describe_missing_parts(study: Study) -> list[str]:
    """One line for each gap between the slices: its length and its place in the lungs."""
    z_mm, relative_z = study.slices["z_mm"].to_numpy(), study.ingested.slices["relative_z"].to_numpy()
    lines = [
        f"missing: {above - below:.0f} mm between z {below:.1f} and {above:.1f} mm, "
        f"{_place(float(np.interp((below + above) / 2, z_mm, relative_z)))}"
        for below, above in missing_parts(z_mm)
    ]
    return _shortened(lines, PRINTED_LINES, "missing")


def _place(relative_z: float) -> str:
    """The place of a slice as words; 0 is the lowest, 1 the highest slice with lung."""
    if not 0 <= relative_z <= 1:
        return "below the lungs" if relative_z < 0 else "above the lungs"
    return f"in the {('lower', 'middle', 'upper')[min(int(3 * relative_z), 2)]} third of the lungs"


def describe_unused_files(study: Study, limit: int, *, names_only: bool = False) -> list[str]:
    """One line for each kind of fault of the files that were not used, and one that counts those beyond the limit.

    Args:
        study: the study.
        limit: lines.
        names_only: show file names instead of paths.
    """
    faults = [(Path(path.name) if names_only else path, reason) for path, reason in study.quarantined]
    return _shortened([f"not used: {line}" for line in describe_faults(faults)], limit, "not used")


def _shortened(lines: list[str], limit: int, title: str) -> list[str]:
    more = len(lines) - limit
    return [*lines[:limit], f"{title}: {more} more"] if more > 0 else lines
