"""The report's charts as inline SVG: no library, no external resource; colours come from the page's style sheet.

Every text passes through `Markup.format`, which escapes it.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup

#: Side of a square chart's plot area and the margins around it, in SVG units.
SIDE, LEFT, BOTTOM, TOP, RIGHT = 220, 40, 38, 12, 12
#: Size of the slice curve in SVG units; the page stretches it without changing the line width.
CURVE_WIDTH, CURVE_HEIGHT = 1000, 100
Points = Sequence[tuple[float, float]] | np.ndarray


def path(points: Iterable[tuple[float, float]]) -> str:
    """The `d` attribute of a polyline."""
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)


def square(
    title: str, x_label: str, y_label: str, lines: Mapping[str, Points], *, diagonal: bool = False, dots: bool = False
) -> Markup:
    """Draw a chart over [0, 1] x [0, 1] with one line per name; lines are styled by order (line-0, line-1).

    Args:
        title: also its accessible name.
        x_label, y_label: of the axes.
        lines: name -> (n, 2) points.
        diagonal: draw a thin line from (0, 0) to (1, 1).
        dots: mark the points.
    """
    width, height = LEFT + SIDE + RIGHT, TOP + SIDE + BOTTOM
    parts = [_frame(x_label, y_label)]
    if diagonal:
        parts.append(_line([(0, 0), (1, 1)], "diagonal"))
    for number, points in enumerate(lines.values()):
        parts.append(_line(points, f"line line-{number}"))
        if dots:
            parts += [
                Markup('<circle class="dot line-{}" cx="{:.1f}" cy="{:.1f}" r="3.5"/>').format(number, *_position(x, y))
                for x, y in points
            ]
    return Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}"><title>{}</title>{}</svg>').format(
        width, height, title, title, Markup("").join(parts)
    )


def _position(x: float, y: float) -> tuple[float, float]:
    """SVG coordinates of a point of the chart."""
    return LEFT + SIDE * float(x), TOP + SIDE * (1 - float(y))


def _line(points: Points, css_class: str) -> Markup:
    return Markup('<path class="{}" d="{}"/>').format(css_class, path(_position(x, y) for x, y in points))


def _frame(x_label: str, y_label: str) -> Markup:
    parts = [Markup('<rect class="frame" x="{}" y="{}" width="{}" height="{}"/>').format(LEFT, TOP, SIDE, SIDE)]
    for tick in (0, 0.25, 0.5, 0.75, 1):
        x, y = _position(tick, tick)
        parts.append(
            Markup(
                '<path class="grid" d="M{x:.1f} {top}V{bottom}M{left} {y:.1f}H{right}"/>'
                '<text x="{x:.1f}" y="{below}" text-anchor="middle">{tick:g}</text>'
                '<text x="{before}" y="{middle:.1f}" text-anchor="end">{tick:g}</text>'
            ).format(
                x=x, y=y, tick=tick, top=TOP, bottom=TOP + SIDE, left=LEFT, right=LEFT + SIDE, below=TOP + SIDE + 14,
                before=LEFT - 5, middle=y + 3.5,
            )
        )  # fmt: skip
    parts.append(
        Markup(
            '<text class="axis" x="{}" y="{}" text-anchor="middle">{}</text>'
            '<text class="axis" transform="translate(10 {}) rotate(-90)" text-anchor="middle">{}</text>'
        ).format(LEFT + SIDE / 2, TOP + SIDE + 31, x_label, TOP + SIDE / 2, y_label)
    )
    return Markup("").join(parts)


def slice_curve(probability: np.ndarray, keys: Sequence[int], positive: np.ndarray | None = None) -> Markup:
    """Draw slice probabilities from feet (left) to head (right); the page moves the cursor along the curve.

    Args:
        probability: (n,) NaN where a slice has none.
        keys: rows of the key slices, which are marked.
        positive: (n,) ground truth, drawn as a band below the curve; None where unknown.
    """
    count = len(probability)
    points = [(_column(row, count), _height(value)) for row, value in enumerate(probability) if np.isfinite(value)]
    line = path(points) if points else ""
    area = f"{line}V{CURVE_HEIGHT}H{points[0][0]:.1f}Z" if points else ""
    marks = Markup("").join(
        Markup('<path class="key" d="M{:.1f} {:.1f}v0"/>').format(_column(row, count), _height(probability[row]))
        for row in keys
        if np.isfinite(probability[row])
    )
    half = CURVE_WIDTH / max(1, count - 1) / 2
    columns = [] if positive is None else [_column(int(row), count) for row in np.flatnonzero(positive)]
    band = "".join(f"M{max(0, x - half):.1f} {CURVE_HEIGHT - 2}H{min(CURVE_WIDTH, x + half):.1f}" for x in columns)
    return Markup(
        '<svg class="curve" viewBox="0 0 {w} {h}" preserveAspectRatio="none" aria-hidden="true">'
        '<path class="grid" d="M0 {half}H{w}"/><path class="area" d="{area}"/><path class="line line-0" d="{line}"/>'
        '<path class="truth-band" d="{band}"/>{marks}<path class="cursor" d="M0 0V{h}"/></svg>'
    ).format(w=CURVE_WIDTH, h=CURVE_HEIGHT, half=CURVE_HEIGHT / 2, area=area, line=line, band=band, marks=marks)


def _column(row: int, count: int) -> float:
    return CURVE_WIDTH * row / max(1, count - 1)


def _height(probability: float) -> float:
    return CURVE_HEIGHT * (1 - 0.96 * float(probability)) - 2


def bar(share: float) -> Markup:
    """A share of 1 as a bar from the left."""
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="8"/><rect class="fill" width="{:.1f}" height="8"/></svg>'
    ).format(100 * min(1.0, max(0.0, share)))


def signed_bar(value: float, largest: float) -> Markup:
    """A number as a bar from the middle: positive to the right (class `raises`), negative to the left (`lowers`)."""
    length = 50 * min(1.0, abs(value) / largest) if largest > 0 else 0.0
    return Markup(
        '<svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="rail" width="100" height="8"/><rect class="{}" x="{:.1f}" width="{:.1f}" height="8"/>'
        '<path class="zero" d="M50 0V8"/></svg>'
    ).format("raises" if value > 0 else "lowers", 50.0 if value > 0 else 50 - length, length)


def thinned(points: np.ndarray, limit: int = 150) -> np.ndarray:
    """Evenly select at most `limit` of the points (n, 2), including the first and the last."""
    rows = np.unique(np.linspace(0, len(points) - 1, min(limit, len(points))).round().astype(int))
    return points[rows]
