"""Findings as lines of text, for the terminal and for the evidence report."""

from collections.abc import Sequence

import numpy as np

from inference.clot_maps import ClotMap
from inference.findings import Finding

#: Findings with a lower probability are not reported in text.
REPORT_THRESHOLD = 0.1


def describe_findings(findings: Sequence[Finding]) -> list[str]:
    """Describe the findings of a study, one line each, or state that there are none to report."""
    lines = [
        f"finding {rank}: {describe_finding(finding)}"
        for rank, finding in enumerate(findings, start=1)
        if finding.probability >= REPORT_THRESHOLD
    ]
    return lines or [f"no slice has a probability of PE of {REPORT_THRESHOLD:g} or more"]


def describe_finding(finding: Finding) -> str:
    """Describe a finding in one line: slices, probability, side and depth, volume, key slice, point."""
    text = f"{_slices(finding)}{_depth_range(finding)}: probability {finding.probability:.2f}"
    words = [word for word in (finding.side, finding.depth) if word]
    text += "".join(f", {word}" for word in words)
    if np.isfinite(finding.volume_ml):
        text += f", {finding.volume_ml:.2f} ml"
    if finding.first != finding.last:
        text += f"; key slice {finding.key + 1}"
    if np.isfinite(finding.point_left_mm):
        side = "left" if finding.point_left_mm > 0 else "right"
        text += f", {abs(finding.point_left_mm):.0f} mm {side} of the midline"
    return text


def describe_burden(clot: ClotMap) -> str:
    """Describe the clot burden in one line: expected volume in all and on each side, occluded share of the arteries."""
    if not clot.has_volumes:
        return "clot burden: not measured, the networks were trained without clot masks"
    left, right = clot.side_volumes_ml()
    if not np.isfinite(left + right):
        return "clot burden: not measured, pixel or slice spacing is unknown"
    shares = clot.occluded_shares()
    if not np.isfinite(shares).any():
        return f"clot burden: {left + right:.1f} ml (left {left:.1f}, right {right:.1f})"
    sides = []
    words = " of the arteries in the lung"
    for name, volume, share in zip(("left", "right"), (left, right), shares, strict=True):
        sides.append(f"{name} {volume:.1f} ml")
        if np.isfinite(share):
            sides[-1] += f" ({100 * share:.0f} %{words})"
            words = ""  # once per line
    return f"clot burden: {left + right:.1f} ml; {', '.join(sides)}"


def _slices(finding: Finding) -> str:
    if finding.first == finding.last:
        return f"slice {finding.key + 1} of {finding.slices} from the feet"
    return f"slices {finding.first + 1}-{finding.last + 1} of {finding.slices} from the feet"


def _depth_range(finding: Finding) -> str:
    """Distance below the top of the lungs; empty where unknown. The first slice is the lowest, so the farthest."""
    low, high, key = finding.below_top_mm
    if not np.isfinite([low, high, key]).all():
        return ""
    millimetres = f"{high:.0f} to {low:.0f}" if low - high >= 1 else f"{key:.0f}"
    return f" ({millimetres} mm below the top of the lungs)"
