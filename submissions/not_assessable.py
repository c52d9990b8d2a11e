"""Exams that are not assessable, in a submission: every row stays, with the prior where that scores better.

Whether the prior or the networks score better on such exams is measured out of fold, on the promoted candidate; without
such a training exam, the prior is used.
"""

import dataclasses

import pandas as pd

from ensemble.candidates import PRIOR
from features.acceptance_rules import Acceptance
from input.contest import STUDY
from submissions.finished_run import Candidates
from submissions.score import Truth, score

#: Exams and slices of a candidate.
Tables = tuple[pd.DataFrame, pd.DataFrame]


@dataclasses.dataclass(frozen=True)
class PriorPolicy:
    """What exams that are not assessable get.

    Attributes:
        refused: StudyInstanceUID -> reasons, of training and test exams.
        uses_prior: whether they get the prior; otherwise the networks' prediction.
        training_exams: number of such training exams.
        change: out-of-fold metric with the prior minus without, of the promoted candidate; NaN without such exams.
    """

    refused: dict[str, str]
    uses_prior: bool
    training_exams: int
    change: float

    def predictions(self, candidates: Candidates, name: str, role: str) -> Tables:
        """Exams and slices of one candidate, with the prior where the policy demands it; role is `oof` or `test`."""
        tables = candidates.predictions(name, role)
        if not self.uses_prior or not self.refused or PRIOR not in candidates.names:
            return tables
        return with_prior(tables, candidates.predictions(PRIOR, role), set(self.refused))

    def describe(self) -> str:
        """The policy and its evidence in words, for the report."""
        if not self.refused:
            return "None: every exam is assessable, or assessable with caution."
        chosen = "the prior" if self.uses_prior else "the networks' prediction, because the prior scores worse"
        if self.training_exams:
            change = f"the prior changes the out-of-fold metric by {self.change:+.5f}"
            evidence = f"{change}, measured on {self.training_exams} exams"
        else:
            evidence = "no training exam is of this kind, so the prior is used without a measurement"
        lines = [f"Exams that are not assessable: {len(self.refused)}. They get {chosen}: {evidence}.", ""]
        return "\n".join([*lines, *(f"- {study}: {reasons}" for study, reasons in sorted(self.refused.items()))])


def prior_policy(candidates: Candidates, acceptance: dict[str, Acceptance], truth: Truth) -> PriorPolicy:
    """Decide from out-of-fold predictions.

    Args:
        candidates: those of the finished ensemble.
        acceptance: StudyInstanceUID -> acceptance of training and test exams.
        truth: of the training exams.
    """
    refused = {study: exam.reason_text for study, exam in acceptance.items() if not exam.allows_labels}
    in_training = len(set(refused) & set(truth.exams[STUDY]))
    if not in_training or PRIOR not in candidates.names:
        return PriorPolicy(refused, True, 0, float("nan"))
    tables = candidates.predictions(candidates.promoted, "oof")
    replaced = with_prior(tables, candidates.predictions(PRIOR, "oof"), set(refused))
    change = score(truth, *replaced).total.value - score(truth, *tables).total.value
    return PriorPolicy(refused, change <= 0, in_training, float(change))


def with_prior(tables: Tables, prior: Tables, studies: set[str]) -> Tables:
    """The tables with the rows of some exams taken from the prior's."""
    exams, slices = (
        pd.concat([table[~table[STUDY].isin(studies)], replacement[replacement[STUDY].isin(studies)]])
        for table, replacement in zip(tables, prior, strict=True)
    )
    return exams, slices
