"""Exam networks: grid along z, loss, training."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from input.contest import EXAM_LABELS, NEGATIVE, SLICE_LABEL, SOP, STUDY
from input.metric import contest_score
from models.check_recipe import EXAM_KINDS
from models.exam_sequences import from_grid, grid_of, onto_grid, with_neighbours
from pipeline.errors import UserError
from pipeline.settings import ExamNetworkSettings
from tests.support.eager_steps import run_eagerly

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

SMALL = ExamNetworkSettings(length=12, step_mm=5.0, units=4, epochs=20, batch=4, learning_rate=2e-2)


def test_the_grid_is_centred_on_the_exam_and_marks_positions_with_slices():
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


def test_values_linear_along_z_survive_resampling_to_the_grid_and_back():
    z = np.array([0, 4, 9, 15, 22, 30.0])
    values = np.stack([2 * z, 5 - z], axis=1)
    grid = grid_of(z, length=41, step_mm=1.0)
    np.testing.assert_allclose(from_grid(grid, z, onto_grid(grid, z, values)), values, atol=1e-4)


def test_differences_to_neighbours_are_zero_at_the_ends_of_the_exam():
    values, inside = np.array([[0.0], [1], [3], [0]]), np.array([0.0, 1, 1, 0])
    assert with_neighbours(values, inside).tolist() == [[0, 0, 0], [1, 0, -2], [3, 2, 0], [0, 0, 0]]


def _exams(count: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Make exams of 12 slices 5 mm apart; the first input depends on PE on the slice, the others are noise."""
    random = np.random.default_rng(seed)
    parts, inputs = [], []
    for exam in range(count):
        slice_labels = np.zeros(12)
        if exam % 2:
            first = random.integers(0, 8)
            slice_labels[first : first + 4] = 1
        labels = dict.fromkeys(EXAM_LABELS, float(exam % 2)) | {NEGATIVE: float(1 - exam % 2)}
        rows = {STUDY: f"{exam:03d}", SOP: [f"{exam:03d}-{i}" for i in range(12)], "z_mm": 5.0 * np.arange(12)}
        parts.append(pd.DataFrame({**rows, SLICE_LABEL: slice_labels, **labels}))
        inputs.append(np.column_stack([2 * slice_labels + random.normal(0, 0.7, 12), random.normal(size=(12, 3))]))
    return pd.concat(parts, ignore_index=True), np.concatenate(inputs).astype(np.float32)


def test_the_loss_is_the_contests_metric():
    from models.exam_inputs import group_by_exam
    from models.exam_network import exam_loss, slice_loss
    from models.exam_training import _targets, metric_unit

    table, inputs = _exams(6, seed=1)
    exams = group_by_exam(table, inputs)
    random = np.random.default_rng(2)
    slices, labels = random.normal(size=(6, 12, 1)).astype("float32"), random.normal(size=(6, 9)).astype("float32")
    targets = _targets(exams, [grid_of(exam.z_mm, 12, 5.0) for exam in exams])
    loss = np.asarray(exam_loss(targets["exams"], labels)) + np.asarray(slice_loss(targets["slices"], slices))
    probability = pd.DataFrame(1 / (1 + np.exp(-labels.astype(float))), columns=EXAM_LABELS)
    expected = contest_score(
        table.drop_duplicates(STUDY), table, probability.assign(**{STUDY: table[STUDY].unique()}),
        table[[STUDY, SOP]].assign(label=1 / (1 + np.exp(-slices.reshape(-1).astype(float)))),
    )  # fmt: skip
    assert loss.mean() / metric_unit(exams) == pytest.approx(expected.total, rel=1e-5)


@pytest.mark.parametrize("kind", EXAM_KINDS)
def test_training_finds_positive_exams_and_slices(kind):
    import keras

    from models.exam_inputs import group_by_exam
    from models.exam_prediction import predict_exams
    from models.exam_training import forward_of, train_exam_network

    model, scale, history = train_exam_network(group_by_exam(*_exams(24, seed=3)), kind, SMALL, lambda *_: None)
    assert history.losses[-1] < 0.75 * history.losses[0]
    assert model.jit_compile == (keras.backend.backend() == "jax")  # on TensorFlow's CPU it is several times slower
    table, inputs = _exams(12, seed=4)
    predictions = predict_exams(forward_of(model, kind), table[[STUDY, SOP, "z_mm"]], inputs, scale, SMALL)
    assert predictions[SOP].tolist() == table[SOP].tolist()
    assert predictions.groupby(STUDY)[NEGATIVE].nunique().max() == 1
    negative, positive = predictions[table[NEGATIVE] == 1], predictions[table[NEGATIVE] == 0]
    assert negative[NEGATIVE].mean() > positive[NEGATIVE].mean() + 0.3
    on_slice = table.loc[positive.index, SLICE_LABEL] == 1
    assert positive.loc[on_slice, "pe"].mean() > positive.loc[~on_slice, "pe"].mean() + 0.1


@pytest.mark.parametrize("kind", EXAM_KINDS)
def test_the_forward_pass_in_numpy_equals_keras(kind):
    import keras

    from models.exam_network import exam_network
    from models.exam_training import forward_of

    model = exam_network(kind, 9, SMALL)
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0.1, 0.5, variable.shape))
    sequence = random.normal(size=(3, 12, 9)).astype("float32")
    inside = np.ones((3, 12, 1), "float32")
    inside[1, :4], inside[2, 9:] = 0, 0
    expected = model({"sequence": sequence, "inside": inside})
    slices, exams = forward_of(model, kind)(sequence, inside)
    assert slices.dtype == exams.dtype == np.float32
    np.testing.assert_allclose(exams, keras.ops.convert_to_numpy(expected["exams"]), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slices, keras.ops.convert_to_numpy(expected["slices"]), rtol=1e-5, atol=1e-5)


def test_weights_of_another_exam_network_are_an_error():
    from models.exam_forward import exam_forward

    arrays = [np.zeros((2, 2), np.float32)] * 14
    exam_forward("gru", arrays)
    for wrong in (arrays[:-1], [*arrays, arrays[0]]):
        with pytest.raises(UserError, match="another exam network"):
            exam_forward("gru", wrong)


@pytest.mark.parametrize("kind", EXAM_KINDS)
def test_inputs_outside_the_exam_do_not_change_its_prediction(kind):
    from models.exam_network import exam_network

    model = exam_network(kind, 3, SMALL)
    random = np.random.default_rng(0)
    sequence = random.normal(size=(1, 12, 3)).astype("float32")
    inside = np.ones((1, 12, 1), "float32")
    inside[:, 9:] = 0
    other = np.where(inside > 0, sequence, 100.0).astype("float32")
    first, second = (model({"sequence": values, "inside": inside})["exams"] for values in (sequence, other))
    np.testing.assert_allclose(first, second, atol=1e-5)


def test_training_is_a_pure_function_of_its_seed(monkeypatch):
    from models.exam_inputs import group_by_exam
    from models.exam_training import train_exam_network

    run_eagerly(monkeypatch)  # tracing takes longer than these six steps

    def weights() -> list[np.ndarray]:
        settings = replace(SMALL, epochs=3)
        exams = group_by_exam(*_exams(8, seed=6))
        model, _, _ = train_exam_network(exams, "gru", settings, lambda *_: None)
        return model.get_weights()

    for first, second in zip(weights(), weights(), strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("width", [4, 265])
def test_the_scale_is_identical_to_that_of_all_slices_at_once(width):
    from models.exam_inputs import ExamSlices, Scale

    random = np.random.default_rng(0)
    sizes = random.integers(1, 60, 20)
    parts = [random.normal(1000, [2.0] * (width - 1) + [0.0], (size, width)).astype(np.float32) for size in sizes]
    scale = Scale.of([ExamSlices(np.arange(len(part)), np.arange(len(part)), part) for part in parts])
    whole = np.concatenate(parts).astype(np.float64)
    np.testing.assert_array_equal(scale.mean, whole.mean(axis=0))
    np.testing.assert_array_equal(scale.deviation, np.maximum(whole.std(axis=0), 1e-3))


def test_every_kind_has_a_builder():
    from models.exam_network import BUILDERS

    assert tuple(BUILDERS) == EXAM_KINDS
