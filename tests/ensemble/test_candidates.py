"""The second level's models: fitting, coherence, determinism, storage, and rejected files."""

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_predictions import simulate
from ensemble.baselines import Prior
from ensemble.binary_targets import PE, TARGETS, average, label_probabilities
from ensemble.blend import Blend, SliceModel
from ensemble.candidates import MEAN, PRIOR, STACK, by_simplicity
from ensemble.gradient_boosting import Trees, TreeShape, fit_trees, inner_folds
from ensemble.logistic import Logistic, expit
from ensemble.predictions import oof_view
from ensemble.stack import Stack
from ensemble.tree_bag import TreeBag, fit_members
from ensemble.view import View
from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, GTE_1, INDETERMINATE, LEFT, LT_1, NEGATIVE, RIGHT
from pipeline.errors import UserError
from pipeline.settings import EnsembleSettings

QUICK = EnsembleSettings(exam_rounds=30, slice_rounds=30, inner_folds=2, bags=2)
SHAPE = TreeShape(4, 10, 0.1, 60, 20, 0.5, 3, 1, 1)


@pytest.fixture(scope="module")
def view() -> View:
    contest = simulate(train=90, test=3, seed=4, slices=24)
    return oof_view(contest.networks, contest.exams, contest.slices, contest.measured)


def test_logistic_regression_recovers_its_coefficients() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal([3, -1], [2, 0.5], (20_000, 2))
    y = generator.random(20_000) < expit(0.5 + 0.8 * (x[:, 0] - 3) - 2 * (x[:, 1] + 1))
    model = Logistic.fit(x, y, penalty=1e-3)
    np.testing.assert_allclose(np.array(model.coefficients) / model.scale, [0.8, -2.0], atol=0.1)
    assert model.decision(np.array([[np.nan, np.nan]]))[0] == pytest.approx(model.intercept)
    assert Logistic.from_json(model.as_json()) == model


def test_weights_give_the_weighted_slice_probability() -> None:
    """E[q*y|x] / E[q|x], not the plain share."""
    q, y = np.repeat([0.1, 0.5], [100, 100]), np.repeat([0, 1, 0, 1], [90, 10, 50, 50])
    model = Logistic.fit(np.zeros((200, 1)), y, weight=q)
    assert expit(np.array([model.intercept]))[0] == pytest.approx((0.1 * 10 + 0.5 * 50) / (0.1 * 100 + 0.5 * 100))


def test_labels_are_coherent_for_any_target_probabilities() -> None:
    generator = np.random.default_rng(1)
    labels = label_probabilities({target: generator.beta(0.4, 0.6, 500) for target in TARGETS})
    pe = 1 - labels[NEGATIVE] - labels[INDETERMINATE]
    np.testing.assert_allclose(labels[GTE_1] + labels[LT_1], pe)
    assert (labels[[LEFT, RIGHT, CENTRAL]].sum(axis=1) >= pe - 1e-6).all()
    assert (labels[CHRONIC] + labels[ACUTE_AND_CHRONIC] <= pe + 1e-9).all()


def test_noise_gives_few_or_no_trees() -> None:
    generator = np.random.default_rng(2)
    table = pd.DataFrame(generator.normal(size=(200, 30))).add_prefix("c")
    y = (generator.random(200) < 0.5).astype(float)
    trees = fit_trees(table, y, np.zeros(200), SHAPE, exams=np.arange(200))
    assert trees.rounds <= 20


def test_trees_learn_the_residual_of_the_base_model() -> None:
    generator = np.random.default_rng(3)
    table = pd.DataFrame(generator.normal(size=(400, 5))).add_prefix("c")
    y = (generator.random(400) < expit(3 * np.sign(table["c2"].to_numpy()))).astype(float)
    trees = fit_trees(table, y, np.zeros(400), SHAPE, exams=np.arange(400))
    correction = trees.correction(table)
    assert correction[table["c2"] > 0.2].mean() > 1.5 and correction[table["c2"] < -0.2].mean() < -1.5


def test_inner_folds_never_split_an_exam() -> None:
    exams = np.repeat(np.arange(40), 7)
    fold = inner_folds((np.arange(280) % 3 == 0).astype(float), exams, 4, seed=0)
    assert (pd.Series(fold).groupby(exams).nunique() == 1).all()
    assert np.bincount(fold).tolist() == [70, 70, 70, 70]


def test_a_changed_tree_file_is_an_error_before_lightgbm_reads_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    table = pd.DataFrame({"c": generator.normal(size=100)})
    trees = fit_trees(table, (table["c"] > 0).to_numpy(float), np.zeros(100), SHAPE, exams=np.arange(100))
    saved = trees.save(tmp_path / "t.txt")
    np.testing.assert_array_equal(Trees.load(tmp_path, saved).correction(table), trees.correction(table))
    (tmp_path / "t.txt").write_text(trees.text[:-40])
    with pytest.raises(UserError, match=r"changed since it was written: .*t\.txt"):
        Trees.load(tmp_path, saved)


def test_a_bag_is_the_mean_of_its_members(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    table = pd.DataFrame(generator.normal(size=(200, 4))).add_prefix("c")
    y = (generator.random(200) < expit(3 * np.sign(table["c2"].to_numpy()))).astype(float)

    def fit(seed: int) -> Trees:
        return fit_trees(table, y, np.zeros(200), dataclasses.replace(SHAPE, seed=seed), exams=np.arange(200))

    settings = EnsembleSettings(seed=1, bags=3)
    bag = TreeBag((*fit_members(fit, table.size, settings), Trees()))  # the last one has no trees
    corrections = [trees.correction(table) for trees in bag.members]
    assert bag.members[0] == fit(1) and not np.array_equal(corrections[0], corrections[1])
    np.testing.assert_allclose(bag.correction(table), np.sum(corrections, axis=0) / 4)
    loaded = TreeBag.load(tmp_path, bag.save(tmp_path / "t.txt"))
    np.testing.assert_array_equal(loaded.correction(table), bag.correction(table))
    assert TreeBag().correction(table).tolist() == [0.0] * 200


def test_slices_trust_the_better_network_if_networks_are_weighed(view: View) -> None:
    good, *_ = view.logits.values()
    noise = np.random.default_rng(0).normal(size=len(good))
    mixed = dataclasses.replace(view, logits={"good": good, "noise": noise})
    weighed, mean = (SliceModel.fit(mixed, QUICK, weigh_networks=weigh) for weigh in (True, False))
    first, second, *_ = weighed.model.coefficients
    assert first > 10 * abs(second)
    assert SliceModel.from_json(weighed.as_json()) == weighed and len(mean.model.coefficients) == 3


def test_a_rare_label_gets_its_prior_which_is_logged(view: View, capsys: pytest.CaptureFixture[str]) -> None:
    truth = view.truth.copy()
    truth[CHRONIC] = 0.0
    without = dataclasses.replace(view, truth=truth)
    for fitted in (Blend.fit(without, QUICK), Stack.fit(without, QUICK)):
        probabilities = fitted.predict(without).target_probabilities[CHRONIC]
        has_pe = int((truth["q"] > 0).sum())
        np.testing.assert_allclose(probabilities, 0.5 / (has_pe + 1))
    assert f"stack: Chronic PE: 0 positive of {has_pe} exams" in capsys.readouterr().out


def test_a_stack_is_reproducible_and_survives_a_round_trip(view: View, tmp_path: Path) -> None:
    first, second = Stack.fit(view, QUICK), Stack.fit(view, QUICK)
    loaded = Stack.load(tmp_path, first.save(tmp_path))
    for other in (second.predict(view), loaded.predict(view)):
        np.testing.assert_array_equal(first.predict(view).slices, other.slices)
        np.testing.assert_array_equal(first.predict(view).target_probabilities[PE], other.target_probabilities[PE])


def test_the_prediction_of_an_exam_does_not_depend_on_other_exams(view: View) -> None:
    fitted = Stack.fit(view, QUICK)
    rows = np.array([3, 17, 40])
    together, apart = fitted.predict(view), fitted.predict(view.take(rows))
    np.testing.assert_allclose(together.target_probabilities[PE][rows], apart.target_probabilities[PE], atol=1e-6)
    np.testing.assert_allclose(together.slices[np.isin(view.owner, rows)], apart.slices, atol=1e-6)


def test_the_prior_has_the_best_constant_slice_probability(view: View) -> None:
    constant = Prior.fit(view, QUICK).slice_probability
    q = view.truth["q"].to_numpy()[view.owner]

    def loss(p: float) -> float:
        return -np.sum(q * (view.slice_truth * np.log(p) + (1 - view.slice_truth) * np.log(1 - p)))

    assert loss(constant) < min(loss(constant - 0.01), loss(constant + 0.01))


def test_the_average_of_one_prediction_is_itself(view: View) -> None:
    prediction = Blend.fit(view, QUICK).predict(view)
    np.testing.assert_allclose(average([prediction]).slices, prediction.slices)


def test_candidates_are_ordered_from_simple_to_complex() -> None:
    assert by_simplicity([STACK, "alpha", MEAN, PRIOR]) == [PRIOR, MEAN, "alpha", STACK]
