"""The table of the synthetic contest's difficulty levels: baselines on planned exams, and the rows."""

import numpy as np

from benchmarks.phantom_table import baselines, levels, view_of
from input.phantom.labels import sample_states


def planned_exams(seed: int, count: int = 40) -> list[tuple]:
    """Exams whose positive slices are all in the upper third."""
    z = np.arange(30.0)
    states = sample_states(count, 0.5, np.random.default_rng(seed))
    return [(f"{seed}{i:03d}", state, z, (z >= 20) & state.positive) for i, state in enumerate(states)]


def test_the_position_alone_beats_the_priors_when_clots_are_high() -> None:
    scores = baselines(view_of(planned_exams(1)), view_of(planned_exams(2)))
    assert scores["z AUC"] > 0.95
    assert scores["z only"] < scores["priors"] < 0.7


def test_the_rows_are_the_three_levels_and_the_full_size() -> None:
    rows = levels(exams=10, seed=3)
    assert [settings.difficulty for settings in rows.values()] == ["easy", "medium", "contest", "contest"]
    assert {(settings.train_exams, settings.test_exams, settings.seed) for settings in rows.values()} == {(10, 5, 3)}
    sizes = [(settings.rows, settings.positive_share) for settings in rows.values()]
    assert sizes[1:] == [(224, 0.5), (224, 0.304), (512, 0.304)]
