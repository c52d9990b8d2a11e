"""Networks over an exam's slices: the grid along z, the loss, and that they learn."""

import numpy as np
import pandas as pd
import pytest

from input.contest import EXAM_LABELS, NEGATIVE, SLICE_LABEL, SOP, STUDY
from input.metric import contest_score
from models.check_recipe import EXAM_KINDS
from models.exam_sequences import from_grid, grid_of, onto_grid, with_neighbours
from pipeline.settings import ExamNetworkSettings

SMALL = ExamNetworkSettings(length=12, step_mm=5.0, units=4, epochs=20, batch=4, learning_rate=2e-2)


def test_the_grid_lies_about_the_exams_middle_and_marks_where_slices_are():
    grid = grid_of(np.arange(0, 41, 10.0), length=12, step_mm=5.0)
    assert grid.z_mm.tolist() == pytest.approx(np.arange(-7.5, 50, 5.0))
    assert grid.inside.tolist() == [0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0]


def test_an_exam_longer_than_the_grid_gets_wider_steps():
    grid = grid_of(np.linspace(0, 220, 45), length=12, step_mm=5.0)
    assert grid.z_mm[[0, -1]].tolist() == [0, 220] and grid.inside.all()


def test_a_single_slice_has_a_position():
    grid = grid_of(np.array([7.0]), length=12, step_mm=5.0)
    assert grid.inside.sum() >= 1
    assert from_grid(grid, np.array([7.0]), np.full((12, 2), 3.0)).tolist() == [[3.0, 3.0]]


def test_what_is_linear_along_z_comes_back_unchanged():
    z = np.array([0, 4, 9, 15, 22, 30.0])
    values = np.stack([2 * z, 5 - z], axis=1)
    grid = grid_of(z, length=41, step_mm=1.0)
    np.testing.assert_allclose(from_grid(grid, z, onto_grid(grid, z, values)), values, atol=1e-4)


def test_differences_stop_at_the_exams_ends():
    values, inside = np.array([[0.0], [1], [3], [0]]), np.array([0.0, 1, 1, 0])
    assert with_neighbours(values, inside).tolist() == [[0, 0, 0], [1, 0, -2], [3, 2, 0], [0, 0, 0]]


def _exams(count: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Exams of 12 slices 5 mm apart; the first number tells PE on the slice, the others are noise."""
    random = np.random.default_rng(seed)
    parts, numbers = [], []
    for exam in range(count):
        on = np.zeros(12)
        if exam % 2:
            first = random.integers(0, 8)
            on[first : first + 4] = 1
        labels = dict.fromkeys(EXAM_LABELS, float(exam % 2)) | {NEGATIVE: float(1 - exam % 2)}
        rows = {STUDY: f"{exam:03d}", SOP: [f"{exam:03d}-{i}" for i in range(12)], "z_mm": 5.0 * np.arange(12)}
        parts.append(pd.DataFrame({**rows, SLICE_LABEL: on, **labels}))
        numbers.append(np.column_stack([2 * on + random.normal(0, 0.7, 12), random.normal(size=(12, 3))]))
    return pd.concat(parts, ignore_index=True), np.concatenate(numbers).astype(np.float32)


def test_the_loss_is_the_contests_metric():
    from models.exam_network import exam_loss, slice_loss
    from models.exam_training import _targets, exams_of, metric_unit

    table, numbers = _exams(6, seed=1)
    exams = exams_of(table, numbers)
    random = np.random.default_rng(2)
    slices, labels = random.normal(size=(6, 12, 1)).astype("float32"), random.normal(size=(6, 9)).astype("float32")
    targets = _targets(exams, [grid_of(each.z_mm, 12, 5.0) for each in exams])
    loss = np.asarray(exam_loss(targets["exams"], labels)) + np.asarray(slice_loss(targets["slices"], slices))
    probability = pd.DataFrame(1 / (1 + np.exp(-labels.astype(float))), columns=EXAM_LABELS)
    expected = contest_score(
        table.drop_duplicates(STUDY), table, probability.assign(**{STUDY: table[STUDY].unique()}),
        table[[STUDY, SOP]].assign(label=1 / (1 + np.exp(-slices.reshape(-1).astype(float)))),
    )  # fmt: skip
    assert loss.mean() / metric_unit(exams) == pytest.approx(expected.total, rel=1e-5)


@pytest.mark.parametrize("kind", EXAM_KINDS)
def test_it_learns_where_and_whether(kind):
    from models.exam_training import exams_of, predict_exams, train_exam_network

    model, scale, history = train_exam_network(exams_of(*_exams(24, seed=3)), kind, SMALL, lambda *_: None)
    assert history.losses[-1] < 0.75 * history.losses[0]
    table, numbers = _exams(12, seed=4)
    found = predict_exams(model, table[[STUDY, SOP, "z_mm"]], numbers, scale, SMALL)
    assert found[SOP].tolist() == table[SOP].tolist()
    assert found.groupby(STUDY)[NEGATIVE].nunique().max() == 1
    negative, pe = found[table[NEGATIVE] == 1], found[table[NEGATIVE] == 0]
    assert negative[NEGATIVE].mean() > pe[NEGATIVE].mean() + 0.3
    on = table.loc[pe.index, SLICE_LABEL] == 1
    assert pe.loc[on, "pe"].mean() > pe.loc[~on, "pe"].mean() + 0.1


@pytest.mark.parametrize("kind", EXAM_KINDS)
def test_what_lies_outside_the_exam_changes_nothing(kind):
    from models.exam_network import exam_network

    model = exam_network(kind, 3, SMALL)
    random = np.random.default_rng(0)
    sequence = random.normal(size=(1, 12, 3)).astype("float32")
    inside = np.ones((1, 12, 1), "float32")
    inside[:, 9:] = 0
    other = np.where(inside > 0, sequence, 100.0).astype("float32")
    first, second = (model({"sequence": each, "inside": inside})["exams"] for each in (sequence, other))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_training_is_a_pure_function_of_its_seed():
    from models.exam_training import exams_of, train_exam_network

    def weights() -> list[np.ndarray]:
        model, _, _ = train_exam_network(exams_of(*_exams(8, seed=6)), "gru", SMALL, lambda *_: None)
        return model.get_weights()

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("width", [4, 265])
def test_the_scale_is_that_of_all_slices_at_once_to_the_last_bit(width):
    from models.exam_training import ExamSlices, Scale

    random = np.random.default_rng(0)
    sizes = random.integers(1, 60, 20)
    parts = [random.normal(1000, [2.0] * (width - 1) + [0.0], (size, width)).astype(np.float32) for size in sizes]
    scale = Scale.of([ExamSlices(np.arange(len(each)), np.arange(len(each)), each) for each in parts])
    whole = np.concatenate(parts).astype(np.float64)
    np.testing.assert_array_equal(scale.mean, whole.mean(axis=0))
    np.testing.assert_array_equal(scale.deviation, np.maximum(whole.std(axis=0), 1e-3))


def test_every_kind_has_a_builder():
    from models.exam_network import BUILDERS

    assert tuple(BUILDERS) == EXAM_KINDS
