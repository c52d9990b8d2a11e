"""One exam of the evidence report."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from features.acceptance_rules import Acceptance
from inference.clot_maps import ClotMap
from inference.evidence.feature_contributions import Contributions
from inference.findings import Finding
from submissions.score import pe_score

#: Roles: which exams these are, as the page shows it.
TEST, OUT_OF_FOLD, UNLABELLED = "Test exam", "Training exam, out-of-fold prediction", "Unlabelled exam"


@dataclasses.dataclass(frozen=True)
class ExamCase:
    """One exam with its predictions and everything else its page shows.

    Attributes:
        name: in the store.
        title: its StudyInstanceUID, as the page shows it.
        role: TEST, OUT_OF_FOLD or UNLABELLED.
        labels: the nine decoded probabilities.
        slices: SOP, z_mm, `label` (probability), `quarantine`, feet to head; `truth` (0, 1) where known.
        numbers: the exam's row of the store's exam table; empty if it was never stored.
        flags: warnings about the series, such as `gaps`.
        notes: further facts about the series and its files, one line each.
        contributions: of the features to the logit of PE; None for candidates without features.
        truth: the nine labels where they are known.
        folds: folds whose networks predicted it.
        findings: likeliest first.
        clot: clot map on the stored planes; None where the networks did not predict the exam.
        acceptance: whether the exam can be assessed.
        force_labels: show its labels although it is not assessable.
    """

    name: str
    title: str
    role: str
    labels: dict[str, float]
    slices: pd.DataFrame
    numbers: dict[str, Any] = dataclasses.field(default_factory=dict)
    flags: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    contributions: Contributions | None = None
    truth: dict[str, int] | None = None
    folds: tuple[int, ...] = ()
    findings: tuple[Finding, ...] = ()
    clot: ClotMap | None = None
    acceptance: Acceptance = Acceptance()
    force_labels: bool = False

    @property
    def shows_labels(self) -> bool:
        """Whether probabilities and findings are shown; otherwise they are withheld."""
        return self.force_labels or self.acceptance.allows_labels

    @property
    def risk(self) -> float:
        """P(PE) as the score computes it: 1 - P(negative) - P(indeterminate), clipped to [0, 1]."""
        return float(np.clip(pe_score(pd.DataFrame([self.labels]))[0], 0, 1))


def by_risk(cases: Iterable[ExamCase]) -> list[ExamCase]:
    """Sort by P(PE), highest first."""
    return sorted(cases, key=lambda case: (-case.risk, case.name))
