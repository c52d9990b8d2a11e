"""Exams that are not assessable keep every row and get the prior where that scores better out of fold."""

from pathlib import Path

import pandas as pd
import pytest

from features.acceptance_rules import Acceptance, Reason, accept
from input.contest import EXAM_LABELS, SOP, STUDY
from submissions.finished_run import Candidates, read_candidates
from submissions.not_assessable import prior_policy, with_prior
from submissions.score import Truth, prepared_truth
from tests.support.submission_cases import random_labels, write_ensemble

REFUSED = accept((Reason("lungs", "no lungs found", True),))


def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strengths: dict[str, float]) -> tuple[Candidates, Truth]:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    from input.tables import load_exams, load_slices
    from pipeline import paths

    write_ensemble(tmp_path, random_labels(60, seed=1), random_labels(24, seed=2, first=100), strengths)
    return read_candidates(paths.ensemble_run()), prepared_truth(load_exams(), load_slices())


def test_rows_of_refused_exams_come_from_the_prior_and_none_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    candidates, truth = finished(tmp_path, monkeypatch, {"prior": 0.0, "stack": 2.0})
    test = f"{100:012x}"
    policy = prior_policy(candidates, {test: REFUSED, f"{101:012x}": Acceptance()}, truth)
    assert policy.uses_prior and policy.training_exams == 0
    exams, slices = policy.predictions(candidates, "stack", "test")
    own, prior = candidates.predictions("stack", "test"), candidates.predictions("prior", "test")
    for table, mine, priors, key in ((exams, own[0], prior[0], STUDY), (slices, own[1], prior[1], SOP)):
        values = table.set_index(key).sort_index()
        expected = pd.concat([mine[mine[STUDY] != test], priors[priors[STUDY] == test]]).set_index(key).sort_index()
        pd.testing.assert_frame_equal(values, expected)
    assert "no training exam is of this kind" in policy.describe() and f"- {test}: no lungs found" in policy.describe()


@pytest.mark.parametrize(("strength", "uses_prior"), [(3.0, False), (-3.0, True)])
def test_out_of_fold_exams_decide_whether_the_prior_is_better(
    strength: float, uses_prior: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Networks with a negative strength are worse than the prior."""
    strengths = {"prior": 0.0, "stack": strength}
    candidates, truth = finished(tmp_path, monkeypatch, strengths)
    candidates = Candidates(candidates.directory, candidates.names, "stack", candidates.identity)
    refused = {f"{exam:012x}": REFUSED for exam in range(20)}
    policy = prior_policy(candidates, refused, truth)
    assert policy.training_exams == 20 and policy.uses_prior is uses_prior and (policy.change < 0) is uses_prior
    chosen = "the prior" if uses_prior else "the networks' prediction"
    assert f"They get {chosen}" in policy.describe() and "measured on 20 exams" in policy.describe()
    if not uses_prior:
        kept, _ = policy.predictions(candidates, "stack", "oof")
        pd.testing.assert_frame_equal(kept, candidates.predictions("stack", "oof")[0])


def test_without_refused_exams_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    candidates, truth = finished(tmp_path, monkeypatch, {"prior": 0.0, "stack": 2.0})
    policy = prior_policy(candidates, {}, truth)
    assert policy.describe().startswith("None")
    exams, _ = policy.predictions(candidates, "stack", "test")
    pd.testing.assert_frame_equal(exams, candidates.predictions("stack", "test")[0])
    tables, prior = candidates.predictions("stack", "test"), candidates.predictions("prior", "test")
    assert with_prior(tables, prior, set(exams[STUDY]))[0][list(EXAM_LABELS)].notna().all(axis=None)
