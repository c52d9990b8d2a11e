"""A measured line in one stored plane, and its table columns."""

from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Line:
    """Ends of a line in the stored volume: index of the plane along z, then (y, x) of both ends, in stored pixels."""

    plane: float
    y0: float
    x0: float
    y1: float
    x1: float

    def columns(self, name: str) -> dict[str, float]:
        """`<name>_plane`, `<name>_y0`, ... -> value."""
        return {f"{name}_{field}": float(value) for field, value in zip(FIELDS, astuple(self), strict=True)}


FIELDS = ("plane", "y0", "x0", "y1", "x1")
