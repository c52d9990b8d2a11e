"""The simulated contest of the scale benchmark has the statistics of the real one."""

import pytest

from benchmarks.simulated_predictions import CONTEST_SLICES, simulate_contest
from input.contest import STUDY


def test_the_simulated_contest_has_the_statistics_of_the_real_one() -> None:
    contest, networks = simulate_contest(train=240, test=60, seed=0, folds=2, backbones=("a",))
    q = contest.exams["q"].dropna()
    assert (q > 0).mean() == pytest.approx(0.304, abs=0.06)
    assert q[q > 0].mean() == pytest.approx(0.178, abs=0.06) and q.max() < 0.9
    assert contest.slices.groupby(STUDY).size().between(CONTEST_SLICES[0], CONTEST_SLICES[1]).all()
    name, fold, table = next(networks)
    assert (name, fold) == ("a", 0) and table["pe"].between(0, 1).all()
    assert set(table["role"]) == {"oof", "test"}
