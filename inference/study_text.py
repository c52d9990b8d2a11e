"""The series and files of a study as lines of text, for the terminal and for the evidence report."""

from inference.series_reader import Study


def flag_words(flag: str) -> str:
    """A flag of the series as words: `instance_order_differs` -> `instance order differs`."""
    return flag.replace("_", " ")


def describe_other_series(study: Study) -> list[str]:
    """One line for each series of the study that was not chosen."""
    return [
        f"other series {other.series_uid} ({other.description or 'no description'}, {other.slices} slices): "
        f"{other.reason}"
        for other in study.other_series
    ]


def describe_unused_files(study: Study, limit: int, *, names_only: bool = False) -> list[str]:
    """One line for each file that was not used, and one that counts those beyond the limit.

    Args:
        study: the study.
        limit: files that are listed.
        names_only: show file names instead of paths.
    """
    lines = [f"not used: {path.name if names_only else path}: {reason}" for path, reason in study.quarantined[:limit]]
    more = len(study.quarantined) - limit
    return [*lines, f"not used: {more} more files"] if more > 0 else lines
