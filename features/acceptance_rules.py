"""Rules that turn the acceptance measurements of an exam into an outcome with reasons.

Three outcomes: assessable; caution (the reader must know something before trusting the labels); not assessable (the
labels must not be used). A rule never changes an exam: it states what was measured and the likely cause. Limits were
chosen on training exams and on the shifts `TUNED` of benchmarks/shifts.py, with room for real scanners.
"""

import dataclasses
import enum
from collections.abc import Iterator

import numpy as np

from features.acceptance_measurements import AcceptanceMeasurements

MIN_SLICES, MIN_EXTENT_MM = 8, 60.0
MISSING_SHARE, MOST_MISSING_SHARE = 0.02, 0.5
REPEATED_SHARE, UNEVEN_SHARE = 0.1, 0.2
THICK_MM, THICKER_THAN_TRAINING = 3.5, 1.4  # thick slices are a warning only where the networks learned on thinner ones
HU_SHIFT, INTERCEPT_HU, INTERCEPT_RANGE = 150.0, 1024.0, 160.0
HU_FIT, SATURATED_SHARE = 0.12, 0.05
LEAST_LUNG_ML, SMALL_LUNG_ML, SMALLER_LUNG_SHARE = 700.0, 1200.0, 0.25
LUNG_HU = (-930.0, -680.0)
LUNG_HEIGHT_MM, BASE_MM, TOP_SHARE, BOTTOM_SHARE = 150.0, 100.0, 0.75, 0.9
CUT_SHARE = 0.02
UNENHANCED_HU, POOR_CONTRAST_HU = 70.0, 200.0
NOISE_HU, FLICKER, METAL_ML = 30.0, 0.7, 3.0
AIRWAY_CM2, HEART_TAPER, AORTA_LEFT, SPINE_BACK, LUNG_FRONT = 0.5, 1.0, -0.2, -0.05, -0.05


class Outcome(enum.StrEnum):
    """Whether an exam can be assessed."""

    ASSESSABLE = "assessable"
    CAUTION = "caution"
    NOT_ASSESSABLE = "not assessable"


@dataclasses.dataclass(frozen=True)
class Reason:
    """Why an exam is not simply assessable.

    Attributes:
        rule: name of the rule, for counting.
        text: what was measured, and the likely cause.
        is_severe: whether it makes the exam not assessable.
    """

    rule: str
    text: str
    is_severe: bool = False


@dataclasses.dataclass(frozen=True)
class Acceptance:
    """The outcome of one exam with its reasons, severe ones first."""

    reasons: tuple[Reason, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """The worst that a reason demands."""
        if any(reason.is_severe for reason in self.reasons):
            return Outcome.NOT_ASSESSABLE
        return Outcome.CAUTION if self.reasons else Outcome.ASSESSABLE

    @property
    def allows_labels(self) -> bool:
        """Whether labels may be shown."""
        return self.outcome is not Outcome.NOT_ASSESSABLE

    @property
    def reason_text(self) -> str:
        """All reasons in one line; empty for an assessable exam."""
        return "; ".join(reason.text for reason in self.reasons)

    def line(self) -> str:
        """Outcome and reasons in one line."""
        return f"{self.outcome}: {self.reason_text}" if self.reasons else str(self.outcome)

    def with_reason(self, reason: Reason | None) -> "Acceptance":
        """The acceptance with one more reason, if there is one."""
        return self if reason is None else accept((*self.reasons, reason))


def accept(reasons: tuple[Reason, ...]) -> Acceptance:
    """The acceptance that these reasons give, severe ones first."""
    return Acceptance(tuple(sorted(reasons, key=lambda reason: not reason.is_severe)))


def judge(measured: AcceptanceMeasurements, training_step_mm: float = np.nan) -> Acceptance:
    """Apply every rule to one exam.

    Args:
        measured: the exam.
        training_step_mm: median slice distance of the exams that the networks learned on; NaN where unknown.
    """
    reasons = list(_geometry(measured, training_step_mm)) + list(_hu_scale(measured))
    if not measured.lungs_found:
        reasons.append(Reason("lungs", "no lungs found: another part of the body, or a narrow field of view?", True))
    else:
        for rule in (_lungs, _coverage, _contrast, _quality, _orientation):
            reasons += rule(measured)
    return accept(tuple(reasons))


def _geometry(measured: AcceptanceMeasurements, training_step_mm: float) -> Iterator[Reason]:
    if measured.slices < MIN_SLICES or measured.extent_mm < MIN_EXTENT_MM:
        count = "1 slice" if measured.slices == 1 else f"{measured.slices} slices"
        yield Reason("extent", f"{count} over {measured.extent_mm:.0f} mm: not an exam of the chest", True)
        return
    if measured.missing_share > MISSING_SHARE:
        yield Reason(
            "gaps",
            f"{measured.missing_share:.0%} of the scanned range is missing; the largest gap is {measured.gap_mm:.0f} "
            f"mm, from z {measured.gap_low_mm:.0f} to {measured.gap_high_mm:.0f} mm, {_level(measured.gap_level)}",
            measured.missing_share > MOST_MISSING_SHARE,
        )
    if measured.repeated_share > REPEATED_SHARE:
        text = f"{measured.repeated_share:.0%} of the slices repeat a position: two acquisitions in one series?"
        yield Reason("repeated", text)
    if measured.uneven_share > UNEVEN_SHARE:
        text = f"{measured.uneven_share:.0%} of the slice distances are uneven: several acquisitions in one series?"
        yield Reason("uneven", text)
    thick_mm = max(THICK_MM, THICKER_THAN_TRAINING * training_step_mm) if np.isfinite(training_step_mm) else THICK_MM
    if measured.step_mm > thick_mm:
        yield Reason("thick", f"slices {measured.step_mm:.1f} mm apart: small emboli between them are not visible")


def _level(relative_z: float) -> str:
    """Where in the chest a relative z lies."""
    if not np.isfinite(relative_z):
        return "at an unknown level"
    names = ("in the lower lungs", "at the level of the heart", "at the level of the pulmonary trunk", "in the apices")
    return names[int(np.searchsorted((0.2, 0.5, 0.75), relative_z))]


def _hu_scale(measured: AcceptanceMeasurements) -> Iterator[Reason]:
    shift, share = measured.hu_shift, measured.saturated_share
    if share > SATURATED_SHARE:
        text = f"{share:.0%} of the voxels have the highest HU: wrapped values, signed pixels read as unsigned?"
        yield Reason("hu wrapped", text, True)
    elif measured.hu_fit < HU_FIT and measured.hu_low >= 0 and measured.hu_high < 500:
        text = f"HU from {measured.hu_low:.0f} to {measured.hu_high:.0f}: grey values of a picture in place of HU?"
        yield Reason("hu picture", text, True)
    elif measured.hu_fit < HU_FIT and measured.hu_high < 0:
        yield Reason("hu too low", "HU far too low: rescale intercept applied twice?", True)
    elif measured.hu_fit < HU_FIT:
        yield Reason("hu unknown", "the HU values fit no CT of a body with air: wrong rescale slope?", True)
    elif abs(shift - INTERCEPT_HU) <= INTERCEPT_RANGE:
        yield Reason("hu too high", "HU about 1024 too high: rescale intercept missing?", True)
    elif abs(shift) > HU_SHIFT:
        text = f"soft tissue at about {shift + 46:.0f} HU instead of 46: wrong rescale intercept or slope?"
        yield Reason("hu shifted", text, True)


def _lungs(measured: AcceptanceMeasurements) -> Iterator[Reason]:
    volume, share = measured.lung_ml, measured.smaller_lung_share
    if volume < SMALL_LUNG_ML:
        yield Reason("lung volume", f"only {volume:.0f} ml of aerated lung", volume < LEAST_LUNG_ML)
    if share < SMALLER_LUNG_SHARE:
        text = f"one lung has {share:.0%} of the lung volume: resection, atelectasis, effusion, or cut off?"
        yield Reason("one lung", text)
    if not LUNG_HU[0] <= measured.lung_hu <= LUNG_HU[1]:
        text = f"lungs at {measured.lung_hu:.0f} HU: consolidation, deep expiration, or a wrong HU scale?"
        yield Reason("lung hu", text)
    if measured.cut_share > CUT_SHARE:
        text = f"the field of view cuts the lungs along {measured.cut_share:.0%} of their outline"
        yield Reason("lungs cut", text)


def _coverage(measured: AcceptanceMeasurements) -> Iterator[Reason]:
    is_short, is_base = measured.lung_height_mm < LUNG_HEIGHT_MM, measured.lung_height_mm < BASE_MM
    missing = ["the aortic arch and above"] if measured.top_share > TOP_SHARE else []
    missing += ["the heart and below"] if is_short and measured.bottom_share > BOTTOM_SHARE else []
    if is_short or missing:
        what = " and ".join(missing) or "a part of the lungs"
        text = f"{measured.lung_height_mm:.0f} mm of the lungs are covered; missing: {what}"
        # Only the bases of the lungs, as in an exam of the abdomen: the pulmonary trunk is not there.
        yield Reason("coverage", text, is_base and measured.top_share > TOP_SHARE)


def _contrast(measured: AcceptanceMeasurements) -> Iterator[Reason]:
    hu = measured.artery_hu
    if not np.isfinite(hu):
        yield Reason("contrast", "the enhancement of the pulmonary artery could not be measured")
    elif hu < UNENHANCED_HU:
        yield Reason("contrast", f"no contrast in the pulmonary artery ({hu:.0f} HU)", True)
    elif hu < POOR_CONTRAST_HU:
        text = f"poor contrast in the pulmonary artery ({hu:.0f} HU; at least {POOR_CONTRAST_HU:.0f} expected)"
        yield Reason("contrast", text)


def _quality(measured: AcceptanceMeasurements) -> Iterator[Reason]:
    if measured.noise_hu > NOISE_HU:
        yield Reason("noise", f"strong noise ({measured.noise_hu:.0f} HU in soft tissue)")
    elif measured.flicker > FLICKER:
        yield Reason("motion", f"motion: the edges of the lungs jump between slices (index {measured.flicker:.1f})")
    if measured.metal_ml > METAL_ML:
        yield Reason("metal", f"{measured.metal_ml:.0f} ml of metal or undiluted contrast, with streaks")


def _orientation(measured: AcceptanceMeasurements) -> Iterator[Reason]:
    """Only judged where enough of the chest is covered and the vessels are enhanced."""
    if measured.lung_height_mm < LUNG_HEIGHT_MM:
        return
    airways_down = measured.airway_bottom_cm2 - measured.airway_top_cm2
    if airways_down > AIRWAY_CM2 and measured.heart_taper < HEART_TAPER:
        text = "head and feet are exchanged: the trachea is at the lower end of the lungs"
        yield Reason("upside down", text, True)
    if measured.lung_front < LUNG_FRONT and measured.spine_back < SPINE_BACK:
        yield Reason("back to front", "front and back are exchanged: the spine is in front", True)
    if measured.aorta_left < AORTA_LEFT and measured.artery_hu >= UNENHANCED_HU:
        text = "the descending aorta is on the right: left and right exchanged, or a variant of anatomy?"
        yield Reason("mirrored", text)
