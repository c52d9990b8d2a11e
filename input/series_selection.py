"""Choose the CT pulmonary angiogram among the series of a hospital export, and explain the choice.

Series are compared by a list of criteria in order. The first criterion in which a series is worse than the chosen one
is reported as the reason against it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from input.header import SliceHeader
from input.slice_order import slice_step_mm

#: Chest scans are longer than this; localizers, bolus tracking and test slices are shorter.
MIN_EXTENT_MM = 100.0
#: Slices further apart are not a thin reconstruction; the contest's are 0.625 to 1.25 mm thick.
THIN_STEP_MM = 2.0

_PROJECTION = re.compile(r"\b(MIP|MINIP|LOCALI[SZ]ER|AVERAGE|REFORMATTED|SCREEN)", re.I)
_ANGIOGRAPHIC = re.compile(r"\b(CTA|CTPA|PA|PE|ANGIO\w*|PULM\w*|EMBOL\w*|ART\w*)\b", re.I)
_PLAIN = re.compile(r"\b(W/?O|WITHOUT|NON[- ]?CON\w*|PLAIN|NATIVE|NATIV)\b", re.I)
#: Such as "CTA chest W/WO": describes a study with both phases, so it is ambiguous for one series.
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
        # A single slice has no step; its thickness is used instead.
        step = slice_step_mm([header.z_mm for header in self.headers])
        return next((value for value in (step, self.headers[0].slice_thickness_mm) if not math.isnan(value)), 99.0)

    @property
    def image_type(self) -> str:
        return " ".join(self.headers[0].image_type)

    @property
    def contrast(self) -> int:
        if _PLAIN.search(_BOTH.sub("", self.text)):
            return 0
        return 2 if _ANGIOGRAPHIC.search(self.text) else int(bool(self.headers[0].contrast_agent))


#: (value, reason): a higher value is better; the reason describes a series with a lower one.
_CRITERIA: tuple[tuple[Callable[[_Candidate], Any], Callable[[_Candidate], str]], ...] = (
    (lambda c: c.extent_mm >= MIN_EXTENT_MM, lambda c: f"covers only {c.extent_mm:.0f} mm"),
    (lambda c: not _PROJECTION.search(f"{c.image_type} {c.text}"), lambda c: f"derived image ({c.image_type})"),
    (lambda c: c.contrast, lambda c: "less angiographic according to its description and contrast agent"),
    (lambda c: not _SHARP.search(c.text), lambda c: "sharp kernel according to its description"),
    (lambda c: c.step_mm <= THIN_STEP_MM, lambda c: f"thick slices, {c.step_mm:g} mm apart"),
    (lambda c: -round(c.step_mm, 2), lambda c: f"thicker slices, {c.step_mm:g} mm apart"),
    (lambda c: len(c.headers), lambda c: f"fewer slices ({len(c.headers)})"),
)


def choose_series(headers: Sequence[SliceHeader]) -> tuple[list[SliceHeader], str, tuple[OtherSeries, ...]]:
    """Choose the thin axial angiographic series.

    Args:
        headers: of all slices of all series; at least one.

    Returns:
        The headers of the chosen series, the reason for the choice, and the other series with the reasons against them.
    """
    groups: dict[str, list[SliceHeader]] = {}
    for header in headers:
        groups.setdefault(header.series_uid, []).append(header)
    ranked = sorted((_Candidate(groups[uid]) for uid in sorted(groups)), key=_rank, reverse=True)
    best, *others = ranked
    other_series = tuple(
        OtherSeries(other.headers[0].series_uid, other.text, len(other.headers), _reason(other, best))
        for other in others
    )
    described = f"{best.text or 'no description'}: {len(best.headers)} axial slices {best.step_mm:g} mm apart"
    rank = f"best of {len(ranked)} series" if others else "the only series"
    return best.headers, f"{described}, {rank}", other_series


def _rank(candidate: _Candidate) -> tuple:
    return tuple(value(candidate) for value, _ in _CRITERIA)


def _reason(other: _Candidate, best: _Candidate) -> str:
    reasons = (reason(other) for value, reason in _CRITERIA if value(other) < value(best))
    return next(reasons, "equal in every criterion; the first series was chosen")
