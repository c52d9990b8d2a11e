"""Folds: stratified on rare labels, deterministic, independent of row order."""

import numpy as np
import pandas as pd
import pytest

from input.contest import ACUTE_AND_CHRONIC, EXAM_LABELS, LT_1, NEGATIVE, RIGHT, STUDY
from input.folds import assign_folds, stratify
from pipeline.errors import UserError


@pytest.fixture(scope="module")
def exams():
    """300 exams, a third of them positive, six acute and chronic."""
    table = pd.DataFrame(0.0, index=range(300), columns=list(EXAM_LABELS))
    table[NEGATIVE] = 1.0
    table.loc[:99, [NEGATIVE, LT_1, RIGHT]] = 0.0, 1.0, 1.0
    table.loc[:5, ACUTE_AND_CHRONIC] = 1.0
    table["q"] = np.where(table[NEGATIVE] > 0, 0.0, np.linspace(0.01, 0.8, 300))
    table[STUDY] = [f"{number * 7919 % 100000:012x}" for number in range(300)]
    return table


def test_rare_labels_are_spread_evenly(exams):
    folds = assign_folds(exams, 3, seed=7).to_numpy()
    assert exams.groupby(folds)[ACUTE_AND_CHRONIC].sum().tolist() == [2, 2, 2]
    assert np.ptp(exams.groupby(folds)[RIGHT].sum()) <= 1
    assert np.bincount(folds).tolist() == [100, 100, 100]


def test_the_clot_burden_is_spread(exams):
    positive = exams[exams["q"] > 0]
    means = positive["q"].groupby(assign_folds(exams, 4, seed=7).to_numpy()[positive.index]).mean()
    assert np.ptp(means) < 0.03


def test_row_order_does_not_matter(exams):
    shuffled = exams.sample(frac=1, random_state=1)
    expected = assign_folds(exams, 5, seed=7)
    pd.testing.assert_series_equal(assign_folds(shuffled, 5, seed=7).sort_index(), expected.sort_index())


def test_another_seed_gives_other_folds(exams):
    assert (assign_folds(exams, 5, seed=7) != assign_folds(exams, 5, seed=8)).any()


def test_rows_without_any_property_are_spread_evenly():
    folds = stratify(np.zeros((10, 2), bool), 5, np.random.default_rng(0))
    assert np.bincount(folds).tolist() == [2] * 5


@pytest.mark.parametrize(("folds", "count"), [(1, 300), (5, 4)])
def test_an_impossible_number_of_folds_is_a_user_error(exams, folds, count):
    with pytest.raises(UserError, match="input.folds"):
        assign_folds(exams.head(count), folds, seed=7)


def test_exams_of_a_group_share_a_fold_and_folds_stay_balanced(exams):
    groups = {exams[STUDY][number]: f"scan {number // 3}" for number in range(60, 150)}
    folds = assign_folds(exams, 3, seed=7, groups=groups)
    group = pd.Series(exams[STUDY].map(groups).to_numpy(), index=folds.index)
    assert (folds.groupby(group).nunique() == 1).all() and folds.groupby(group).ngroups == 30
    assert folds.index.tolist() == exams[STUDY].tolist()
    assert np.ptp(np.bincount(folds)) <= 12 and np.ptp(exams.groupby(folds.to_numpy())[RIGHT].sum()) <= 6


def test_a_group_may_be_named_after_an_exam(exams):
    original, derived = exams[STUDY][0], exams[STUDY][200]
    for seed in range(5):
        folds = assign_folds(exams, 5, seed, {derived: original})
        assert folds[original] == folds[derived]
