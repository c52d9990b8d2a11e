"""Which of several series of a hospital export is the CT pulmonary angiogram, and why not the others.

Criteria are compared in order; the first one in which a series falls behind is the reason it is given.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from input.header import SliceHeader
from input.slice_order import slice_step_mm

#: A chest is longer than this; localizers, bolus tracking and test slices are not.
MIN_EXTENT_MM = 100.0
#: The contest's slices are 0.625 to 1.25 mm thick, so a step above this is no thin reconstruction.
THIN_STEP_MM = 2.0

_PROJECTION = re.compile(r"\b(MIP|MINIP|LOCALI[SZ]ER|AVERAGE|REFORMATTED|SCREEN)", re.I)
_ANGIOGRAPHIC = re.compile(r"\b(CTA|CTPA|PA|PE|ANGIO\w*|PULM\w*|EMBOL\w*|ART\w*)\b", re.I)
_PLAIN = re.compile(r"\b(W/?O|WITHOUT|NON[- ]?CON\w*|PLAIN|NATIVE|NATIV)\b", re.I)
#: "CTA chest W/WO": the description of a study with both phases tells nothing of this one.
_BOTH = re.compile(r"\bW(ITH|/)?\s*(AND|&|\+|/)?\s*W(ITHOUT|/?O)\b", re.I)
_SHARP = re.compile(r"\b(LUNG|BONE|SHARP|HRCT|B[67]\d[FS]?)\b", re.I)


@dataclass(frozen=True)
class OtherSeries:
    """A series that was not chosen."""

    series_uid: str
    description: str
    slices: int
    reason: str


@dataclass(frozen=True)
class _Candidate:
    headers: list[SliceHeader]

    @property
    def text(self) -> str:
        return self.headers[0].series_description

    @property
    def extent_mm(self) -> float:
        z_mm = [header.z_mm for header in self.headers]
        return max(z_mm) - min(z_mm)

    @property
    def step_mm(self) -> float:
        # A lone slice has no step: its thickness stands in.
        step = slice_step_mm([header.z_mm for header in self.headers])
        return next((value for value in (step, self.headers[0].slice_thickness_mm) if value == value), 99.0)

    @property
    def image_type(self) -> str:
        return " ".join(self.headers[0].image_type)

    @property
    def contrast(self) -> int:
        if _PLAIN.search(_BOTH.sub("", self.text)):
            return 0
        return 2 if _ANGIOGRAPHIC.search(self.text) else int(bool(self.headers[0].contrast_agent))


#: Higher is better; the second function words a defeat.
_CRITERIA: tuple[tuple[Callable[[_Candidate], Any], Callable[[_Candidate], str]], ...] = (
    (lambda c: c.extent_mm >= MIN_EXTENT_MM, lambda c: f"covers only {c.extent_mm:.0f} mm"),
    (lambda c: not _PROJECTION.search(f"{c.image_type} {c.text}"), lambda c: f"derived image ({c.image_type})"),
    (lambda c: c.contrast, lambda c: "less angiographic by its description and contrast agent"),
    (lambda c: not _SHARP.search(c.text), lambda c: "a sharp kernel by its description"),
    (lambda c: c.step_mm <= THIN_STEP_MM, lambda c: f"thick slices, {c.step_mm:g} mm apart"),
    (lambda c: -round(c.step_mm, 2), lambda c: f"thicker slices, {c.step_mm:g} mm apart"),
    (lambda c: len(c.headers), lambda c: f"fewer slices ({len(c.headers)})"),
)


def choose_series(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], str, tuple[OtherSeries, ...]]:
    """Choose the thin axial angiographic series.

    Returns:
        Its headers, why it was chosen, and the others with the reason against each.
    """
    groups: dict[str, list[SliceHeader]] = {}
    for header in headers:
        groups.setdefault(header.series_uid, []).append(header)
    ranked = sorted((_Candidate(groups[uid]) for uid in sorted(groups)), key=_rank, reverse=True)
    best, *rest = ranked
    others = tuple(
        OtherSeries(other.headers[0].series_uid, other.text, len(other.headers), _reason(other, best)) for other in rest
    )
    described = f"{best.text or 'no description'}: {len(best.headers)} axial slices {best.step_mm:g} mm apart"
    return best.headers, f"{described}, {'best of' if rest else 'the only one of'} {len(ranked)} series", others


def _rank(candidate: _Candidate) -> tuple:
    return tuple(value(candidate) for value, _ in _CRITERIA)


def _reason(other: _Candidate, best: _Candidate) -> str:
    lost = (word(other) for value, word in _CRITERIA if value(other) < value(best))
    return next(lost, "equal in every criterion; the first was taken")
