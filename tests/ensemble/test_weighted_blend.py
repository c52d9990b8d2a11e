"""Mixtures of logits: what they recover, when they stay simple; the candidate `weighted`."""

import numpy as np
import pytest

from ensemble.binary_targets import PE
from ensemble.candidates import MEAN, STACK, WEIGHTED, by_simplicity, fitters, networks_read
from ensemble.logistic import expit
from ensemble.logit_mixture import FORMS, Mixture, fit_form, fit_mixture
from ensemble.predictions import oof_view
from ensemble.weighted_blend import Weighted
from pipeline.settings import EnsembleSettings, ModelsSettings, Settings
from tests.support.simulated_predictions import simulate

QUICK = EnsembleSettings(exam_rounds=30, slice_rounds=30, inner_folds=2)


def drawn(rows: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits of one member that is right and one that is noise, the answers, and inner folds."""
    generator = np.random.default_rng(seed)
    right = generator.normal(0, 2, rows)
    y = (generator.random(rows) < expit(right)).astype(float)
    return np.stack([right, generator.normal(0, 2, rows)]), y, np.arange(rows) % 4


def test_weights_leave_out_the_member_that_is_noise():
    logits, y, fold = drawn(2_000, seed=0)
    found = fit_mixture(logits, y, fold, exams=np.arange(2_000))
    assert found.form == "weights" and found.weights[0] > 0.9
    assert sum(found.weights) == pytest.approx(1) and min(found.weights) >= 0


def test_equal_members_that_are_calibrated_stay_a_plain_mean():
    logits, y, fold = drawn(400, seed=1)
    found = fit_mixture(logits[[0, 0]], y, fold, exams=np.arange(400))
    assert found == Mixture("mean", (0.5, 0.5))


def test_opinions_that_are_too_sure_are_cooled():
    logits, y, fold = drawn(2_000, seed=2)
    found = fit_mixture(3 * logits[[0, 0]], y, fold, exams=np.arange(2_000))
    assert found.form == "temperature" and found.a == pytest.approx(1 / 3, abs=0.05) and found.a == found.b


def test_beta_calibration_undoes_a_shift():
    logits, y, _ = drawn(4_000, seed=3)
    found = fit_form("beta", logits[[0]] + 1.5, y, np.ones(4_000))
    assert found.decision(np.array([[1.5]]))[0] == pytest.approx(0, abs=0.15)
    assert found.a >= 0 and found.b >= 0


def test_every_form_is_a_rising_function_of_every_member():
    logits, y, _ = drawn(300, seed=4)
    for form in FORMS:
        found = fit_form(form, logits, y, np.ones(300))
        assert (found.decision(logits + 0.5) >= found.decision(logits) - 1e-12).all()
        assert Mixture.from_json(found.as_json()) == found


def test_the_candidate_predicts_and_survives_a_round_trip(tmp_path):
    contest = simulate(train=90, test=3, seed=4, slices=24)
    view = oof_view(contest.networks, contest.exams, contest.slices, contest.measured)
    fitted = Weighted.fit(view, QUICK)
    again = Weighted.load(tmp_path, fitted.save(tmp_path)).predict(view)
    found = fitted.predict(view)
    np.testing.assert_array_equal(found.slices, again.slices)
    np.testing.assert_array_equal(found.answers[PE], again.answers[PE])
    positive = view.slice_truth > 0
    assert found.slices[positive].mean() > 2 * found.slices[~positive].mean()


def test_it_is_a_candidate_only_where_asked_for_and_simpler_than_the_stack():
    models = ModelsSettings(backbones=("a", "b"))
    on = Settings(models=models, ensemble=EnsembleSettings(weighted=True))
    assert WEIGHTED not in fitters(Settings(models=models)) and fitters(on)[WEIGHTED] == Weighted.fit
    assert networks_read(on)[WEIGHTED] == ("a", "b")
    assert by_simplicity([STACK, WEIGHTED, "a", MEAN]) == [MEAN, "a", WEIGHTED, STACK]
