"""Plain text tables."""

from collections.abc import Mapping, Sequence

from tabulate import tabulate


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Format a text table with a rule below its header.

    Args:
        header: the titles of the columns.
        rows: the cells, one sequence per row.
        left: number of leading columns that are aligned left; the others are aligned right.
    """
    sides = ["left" if column < left else "right" for column in range(len(header))]
    return tabulate(rows, headers=header, tablefmt="simple", colalign=sides, disable_numparse=True)


def legend(meanings: Mapping[str, str]) -> str:
    """One line per column title with its meaning."""
    width = max(map(len, meanings))
    return "\n".join(f"  {title:<{width}}  {meaning}" for title, meaning in meanings.items())
