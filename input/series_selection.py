"""Choose the CT pulmonary angiogram among the series of a hospital export, and explain the choice.

Series, and acquisitions that share a series, are compared by a list of criteria in order. The first criterion in which
a candidate is worse than the chosen one is reported as the reason against it. Where the enhancement of the pulmonary
arteries can be measured, it decides; else descriptions do.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from input.header import SliceHeader
from input.series_parts import join_scattered_series, split_acquisitions
from input.slice_order import slice_step_mm

#: Measures the attenuation of the pulmonary arteries of a series, HU; NaN where it shows no lungs.
Enhancement = Callable[[Sequence[SliceHeader]], float]

#: Chest scans are longer than this; localizers, bolus tracking and test slices are shorter.
MIN_EXTENT_MM = 100.0
#: Slices further apart are not a thin reconstruction; the contest's are 0.625 to 1.25 mm thick.
THIN_STEP_MM = 2.0

#: Series whose pulmonary arteries differ by less than this, or by less than this share, are of the same phase. More
#: than FULL_HU is no advantage: monoenergetic images at low energies have it, and more noise.
SAME_PHASE_HU, SAME_PHASE_SHARE, FULL_HU = 50.0, 0.25, 300.0

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
    part: str  # which acquisition of a series; "" if it is the only one
    enhancement_hu: float = math.nan  # of the pulmonary arteries
    is_enhanced: bool = True  # as much as the best candidate; True where nothing was measured
    is_measured: bool = False  # whether any candidate was

    @property
    def text(self) -> str:
        return self.headers[0].series_description

    @property
    def title(self) -> str:
        return ", ".join(text for text in (self.text or "no description", self.part) if text)

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
    def is_eligible(self) -> bool:
        """Whether it could be a chest scan of original slices, which is worth measuring."""
        return self.extent_mm >= MIN_EXTENT_MM and not _PROJECTION.search(f"{self.image_type} {self.text}")

    @property
    def contrast(self) -> int:
        if self.is_measured or _PLAIN.search(_BOTH.sub("", self.text)):
            return 0
        return 2 if _ANGIOGRAPHIC.search(self.text) else int(bool(self.headers[0].contrast_agent))

    @property
    def enhancement_reason(self) -> str:
        if math.isnan(self.enhancement_hu):
            return "no lungs found in it"
        return f"pulmonary arteries less enhanced, {self.enhancement_hu:.0f} HU"


#: (value, reason): a higher value is better; the reason describes a series with a lower one.
_CRITERIA: tuple[tuple[Callable[[_Candidate], Any], Callable[[_Candidate], str]], ...] = (
    (lambda c: c.extent_mm >= MIN_EXTENT_MM, lambda c: f"covers only {c.extent_mm:.0f} mm"),
    (lambda c: not _PROJECTION.search(f"{c.image_type} {c.text}"), lambda c: f"derived image ({c.image_type})"),
    (lambda c: c.is_enhanced, lambda c: c.enhancement_reason),
    (lambda c: c.contrast, lambda c: "less angiographic according to its description and contrast agent"),
    (lambda c: not _SHARP.search(c.text), lambda c: "sharp kernel according to its description"),
    (lambda c: c.step_mm <= THIN_STEP_MM, lambda c: f"thick slices, {c.step_mm:g} mm apart"),
    (lambda c: -round(c.step_mm, 2), lambda c: f"thicker slices, {c.step_mm:g} mm apart"),
    (lambda c: len(c.headers), lambda c: f"fewer slices ({len(c.headers)})"),
)


def choose_series(
    headers: Sequence[SliceHeader], measure: Enhancement | None = None
) -> tuple[list[SliceHeader], str, tuple[OtherSeries, ...]]:
    """Choose the thin axial angiographic series.

    Args:
        headers: of all slices of all series; at least one.
        measure: measures the enhancement of a series; called only if several candidates could be the chest scan.

    Returns:
        The headers of the chosen series, the reason for the choice, and the other series with the reasons against them.
    """
    groups: dict[str, list[SliceHeader]] = {}
    for header in join_scattered_series(headers):
        groups.setdefault(header.series_uid, []).append(header)
    candidates = [candidate for uid in sorted(groups) for candidate in _candidates(groups[uid])]
    if measure and sum(candidate.is_eligible for candidate in candidates) > 1:
        candidates = _measured(candidates, measure)
    best, *others = sorted(candidates, key=_rank, reverse=True)
    other_series = tuple(
        OtherSeries(other.headers[0].series_uid, other.title, len(other.headers), _reason(other, best))
        for other in others
    )
    described = f"{best.title}: {len(best.headers)} axial slices {best.step_mm:g} mm apart"
    if not math.isnan(best.enhancement_hu):
        described += f", pulmonary arteries {best.enhancement_hu:.0f} HU"
    rank = f"best of {len(candidates)} series" if others else "the only series"
    return best.headers, f"{described}, {rank}", other_series


def _candidates(series: list[SliceHeader]) -> list[_Candidate]:
    """The acquisitions of one series."""
    parts = split_acquisitions(series)
    return [
        _Candidate(part, f"part {number} of {len(parts)}" if len(parts) > 1 else "")
        for number, part in enumerate(parts, start=1)
    ]


def _measured(candidates: list[_Candidate], measure: Enhancement) -> list[_Candidate]:
    """The candidates with their enhancement, as far as it can be measured."""
    values = [measure(candidate.headers) if candidate.is_eligible else math.nan for candidate in candidates]
    best = max((value for value in values if not math.isnan(value)), default=math.nan)
    if math.isnan(best):
        return candidates
    least = min(best - max(SAME_PHASE_HU, SAME_PHASE_SHARE * best), FULL_HU)
    return [
        replace(candidate, enhancement_hu=value, is_enhanced=value >= least, is_measured=True)
        for candidate, value in zip(candidates, values, strict=True)
    ]


def _rank(candidate: _Candidate) -> tuple:
    return tuple(value(candidate) for value, _ in _CRITERIA)


def _reason(other: _Candidate, best: _Candidate) -> str:
    reasons = (reason(other) for value, reason in _CRITERIA if value(other) < value(best))
    return next(reasons, "equal in every criterion; the first series was chosen")
