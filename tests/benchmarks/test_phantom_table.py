"""The table of the drawn contest's steps: baselines from planned exams, and what a row stands for."""

import numpy as np

from benchmarks.phantom_table import baselines, steps, view_of
from input.phantom.labels import draw_states


def exams(seed: int, count: int = 40) -> list[tuple]:
    """Exams whose positive slices all lie in the upper third."""
    z = np.arange(30.0)
    states = draw_states(count, 0.5, np.random.default_rng(seed))
    return [(f"{seed}{i:03d}", state, z, (z >= 20) & state.positive) for i, state in enumerate(states)]


def test_the_position_alone_beats_the_priors_where_clots_lie_high() -> None:
    scores = baselines(view_of(exams(1)), view_of(exams(2)))
    assert scores["z AUC"] > 0.95
    assert scores["z only"] < scores["priors"] < 0.7


def test_the_rows_are_the_three_steps_and_the_full_size() -> None:
    rows = steps(exams=10, seed=3)
    assert [each.difficulty for each in rows.values()] == ["easy", "medium", "contest", "contest"]
    assert {(each.train_exams, each.test_exams, each.seed) for each in rows.values()} == {(10, 5, 3)}
    assert [(each.rows, each.positive_share) for each in rows.values()][1:] == [(224, 0.5), (224, 0.304), (512, 0.304)]
