"""Training and prediction of slice networks: resuming, weight averaging, unfreezing, early stopping, engines."""

import os
import re
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from features.lung_box import Box
from features.store import write_exam
from input.contest import SLICE_LABEL, STUDY
from models.arrays import load_arrays
from models.batches import loader_threads
from models.clot_targets import MAP_CHANNELS
from models.device import onednn_is_limited
from models.history import History
from models.progress import TrainingLog
from models.slice_targets import TARGETS
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings
from tests.support.eager_steps import run_eagerly

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

#: One step per epoch.
SMALL = ModelsSettings(
    height=32, width=32, embedding=8, epochs=2, epoch_slices=8, batch=8, weights="none", learning_rate=1e-3
)
#: With layers that OpenVINO computes, and fixed statistics.
FIXED = replace(SMALL, fixed_statistics=True, frozen_share=0.4, ema=0.8)

EXAMS = ("pos1", "neg1", "pos2", "neg2")


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """Four stored exams of 6 planes, two with PE on planes 2 and 3, and their slice table."""
    folder = tmp_path_factory.mktemp("store")
    random = np.random.default_rng(0)
    for study in EXAMS:
        hu = random.integers(-200, 400, (6, 24, 24)).astype(np.int16)
        write_exam(
            folder, study, "s", hu, z_mm=np.arange(6) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0),
            sop_uids=tuple(f"{study}{index}" for index in range(6)),
            box=Box(y0=0, y1=48, x0=0, x1=48, z0=0, z1=6, middle_x=24.0, found=True),
        )  # fmt: skip
    table = pd.DataFrame({STUDY: np.repeat(EXAMS, 6), "plane": [*range(6)] * 4})
    table["SOPInstanceUID"] = table[STUDY] + table["plane"].astype(str)
    table[SLICE_LABEL] = ([0.0, 0, 1, 1, 0, 0] + [0.0] * 6) * 2
    for name in TARGETS[1:]:
        table[name] = table[STUDY].str.startswith("pos").astype(float)
    return folder, table


@pytest.fixture(autouse=True)
def eager_steps(monkeypatch, request):
    """Train without tracing, unless a test is marked `compiled`."""
    if not request.node.get_closest_marker("compiled"):
        run_eagerly(monkeypatch)


@pytest.fixture(autouse=True)
def tiny_backbone(monkeypatch):
    """Backbones with every kind of layer state (kernels, statistics) that compile quickly.

    OpenVINO computes frozen layers of "strided", which has feature maps at several strides, not those of "tiny".
    """
    from keras import layers

    from models.backbones import BACKBONES, Backbone
    from models.batch_normalization import NormalisedConvolution

    def graph(images):
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 5, 4)(images)))

    def strided_graph(images):
        for stride in (4, 2, 2, 2):
            convolution = layers.Conv2D(8, 3, stride, "same", use_bias=False)
            images = layers.ReLU()(NormalisedConvolution(convolution, momentum=0.99, epsilon=1e-3)(images))
        return images

    for name, own_graph in (("tiny", graph), ("strided", strided_graph)):
        monkeypatch.setitem(BACKBONES, name, Backbone(own_graph, (0.5,) * 3, (0.5,) * 3, "none"))


def _values(variable):
    import keras

    return np.copy(keras.ops.convert_to_numpy(variable))


class Killed(Exception):
    """Simulates a kill."""


class KillingLog(TrainingLog):
    """Kills the training after an epoch (number from 1), or at a step (epoch and step from 0).

    Keeps the checkpoint of every epoch, beside the training's own.
    """

    def __init__(self, epochs, checkpoint, after_epoch=None, at_step=None):
        super().__init__(epochs)
        self._checkpoint, self._after_epoch, self._at_step = checkpoint, after_epoch, at_step

    def step(self, epoch, step, loss, slices):
        if (epoch, step) == self._at_step:
            raise Killed

    def epoch(self, history):
        shutil.copyfile(self._checkpoint, _kept(self._checkpoint, len(history)))
        if len(history) == self._after_epoch:
            raise Killed


def _kept(checkpoint, epoch):
    return checkpoint.with_name(f"{checkpoint.stem}-epoch{epoch}.npz")


def _train(contest, checkpoint, settings=SMALL, *, backbone="tiny", shared=False, **kill):
    """Train a network; `shared` as a process does that has trained another fold, else as in a process of its own."""
    import keras

    from models.slice_training import train_network
    from models.slice_views import SliceViews
    from models.training_run import STARTED

    if not shared:
        STARTED.clear()
    keras.utils.set_random_seed(settings.seed)
    log = KillingLog(settings.epochs, checkpoint, **kill)
    try:
        run = train_network(contest[1], SliceViews(contest[0], settings), settings, backbone, checkpoint, log)
    except Killed:
        return None
    return run.model, run.history


def _resume(contest, checkpoint, folder, settings=SMALL, **options):
    """Train from a copy of a checkpoint in a folder."""
    return _train(contest, Path(shutil.copy(checkpoint, folder / "resumed.npz")), settings, **options)


class Finished(NamedTuple):
    """A training that was not killed.

    Attributes:
        values: The values of the network's variables, by path.
        history: Its history.
        started: The values at its start, in the same order; none if later folds cannot share the network.
        checkpoints: The checkpoints after its epochs, which kills after these epochs would have left.
    """

    values: dict[str, np.ndarray]
    history: History
    started: list[np.ndarray]
    checkpoints: list[Path]


def _finish(contest, checkpoint, settings=SMALL, backbone="tiny"):
    from models.training_run import STARTED

    model, history = _train(contest, checkpoint, settings, backbone=backbone)
    values = {variable.path: _values(variable) for variable in model.variables}
    assert len(values) == len(model.variables)
    started = STARTED[0][2][: len(values)] if STARTED else []
    kept = [_kept(checkpoint, epoch + 1) for epoch in range(len(history))]
    return Finished(values, history, started, kept)


@pytest.fixture(scope="module")
def finished_by_recipe():
    """Recipe -> its finished training."""
    return {}


@pytest.fixture
def finished(contest, finished_by_recipe, tmp_path_factory, request):
    """A function that trains without a kill, once for all tests with the same recipe."""
    is_compiled = request.node.get_closest_marker("compiled") is not None

    def finish(settings=SMALL, backbone="tiny"):
        key = repr(settings), backbone, is_compiled
        if key not in finished_by_recipe:
            checkpoint = tmp_path_factory.mktemp("finished") / "run.npz"
            finished_by_recipe[key] = _finish(contest, checkpoint, settings, backbone)
        return finished_by_recipe[key]

    return finish


#: All parts of a recipe with state across epochs; the layers are unfrozen in the third epoch.
EVERYTHING = replace(
    SMALL, epochs=4, ema=0.8, accumulate=2, batch=4, frozen_share=0.9, unfreeze_epoch=3, inner_share=0.4, patience=4
)


def _assert_identical(finished, trained):
    model, history = trained
    assert finished.history == history
    for (path, expected), variable in zip(finished.values.items(), model.variables, strict=True):
        assert np.array_equal(expected, _values(variable)), path


def test_a_kill_leaves_the_checkpoint_of_the_last_finished_epoch(contest, tmp_path, finished):
    """So later tests resume from the checkpoints of a training that was not killed."""
    assert _train(contest, tmp_path / "killed.npz", after_epoch=1) is None
    left, expected = load_arrays(tmp_path / "killed.npz"), load_arrays(finished().checkpoints[0])
    assert list(left) == list(expected)
    for name, values in left.items():
        assert np.array_equal(values, expected[name]), name


@pytest.mark.compiled
def test_a_killed_run_resumes_to_the_same_bytes(contest, tmp_path, finished):
    whole = finished(FIXED, "strided")
    _assert_identical(whole, _resume(contest, whole.checkpoints[0], tmp_path, FIXED, backbone="strided"))
    assert len(whole.history) == 2


@pytest.mark.parametrize("frozen_share", [0.0, 0.4])
def test_fixed_statistics_are_measured_once_and_survive_a_kill(contest, tmp_path, finished, frozen_share):
    from models.slice_network import slice_network

    settings = replace(FIXED, frozen_share=frozen_share)
    whole = finished(settings, "strided")
    first_epoch = load_arrays(whole.checkpoints[0])
    network = slice_network(SMALL, "strided", "none")
    of_backbone = {id(variable) for variable in network.get_layer("strided").variables}
    changed = []
    for number, (variable, value) in enumerate(zip(network.variables, whole.values.values(), strict=False)):
        if id(variable) in of_backbone and variable.name.startswith("moving_"):
            assert np.array_equal(value, first_epoch[f"v{number:04d}"]), variable.path
            changed.append(not np.array_equal(value, whole.started[number]))
    assert len(changed) == 8 and sum(changed) == (8 if frozen_share == 0 else 4)
    _assert_identical(whole, _resume(contest, whole.checkpoints[0], tmp_path, settings, backbone="strided"))


@pytest.mark.parametrize(("count", "sizes"), [(1, [3, 3, 3, 3, 3]), (2, [6, 6, 3]), (4, [12, 3]), (9, [15])])
def test_batches_are_joined_for_the_statistics(count, sizes):
    from models.slice_training import _joined

    batches = [np.full((3, 2), number) for number in range(5)]
    joined = [np.asarray(batch) for batch in _joined(batches, count)]
    assert [len(batch) for batch in joined] == sizes
    np.testing.assert_array_equal(np.concatenate(joined), np.concatenate(batches))


def test_a_resumed_run_with_a_frozen_stem_computes_it_with_the_stem_s_own_weights(contest, tmp_path):
    import keras

    from models.checkpoint import save_weights
    from models.slice_network import slice_network
    from models.training_run import STARTED

    keras.utils.set_random_seed(SMALL.seed + 1)  # not the weights that a run with its own seed would start from
    save_weights(tmp_path / "weights.npz", slice_network(SMALL, "strided", "none"))
    settings = replace(SMALL, frozen_share=0.4, weights=str(tmp_path / "weights.npz"))
    whole = _finish(contest, tmp_path / "whole.npz", settings, "strided")
    assert STARTED[0][1].stem() is not None
    _assert_identical(whole, _resume(contest, whole.checkpoints[0], tmp_path, settings, backbone="strided"))


@pytest.mark.parametrize(
    ("backbone", "settings"),
    [("tiny", replace(SMALL, ema=0.8, dropout=0.5)),
     pytest.param("strided", FIXED, marks=pytest.mark.compiled)],
)  # fmt: skip
def test_folds_that_share_a_compiled_network_have_the_bytes_of_their_own(
    contest, tmp_path, finished, backbone, settings
):
    table, store = contest[1], contest[0]
    other = table[table[STUDY] != table[STUDY].iat[0]].reset_index(drop=True)
    alone = finished(settings, backbone)
    first, _ = _train((store, other), tmp_path / "other.npz", settings, backbone=backbone)
    second = _train(contest, tmp_path / "shared.npz", settings, backbone=backbone, shared=True)
    assert second[0] is first
    _assert_identical(alone, second)


def test_a_resumed_fold_does_not_depend_on_earlier_folds_of_its_process(contest, tmp_path, finished):
    whole = finished()
    _train(contest, tmp_path / "other.npz")
    _assert_identical(whole, _resume(contest, whole.checkpoints[0], tmp_path, shared=True))


@pytest.mark.skipif(onednn_is_limited(), reason="ONEDNN_MAX_CPU_ISA rules out bfloat16 and float16")
def test_with_float16_the_loss_is_scaled_and_the_scale_survives_a_kill(contest, tmp_path, monkeypatch):
    from models import precision
    from models.arrays import load_arrays
    from models.device import Device

    monkeypatch.setattr(precision, "this_device", lambda: Device("gpu", False))
    whole = _finish(contest, tmp_path / "whole.npz")
    resumed = _resume(contest, whole.checkpoints[0], tmp_path)
    optimizer = [values for name, values in load_arrays(whole.checkpoints[0]).items() if name.startswith("o")]
    assert 2.0**15 in [values.item() for values in optimizer if values.size == 1]  # Keras's first scale
    assert {layer.compute_dtype for layer in resumed[0].get_layer("tiny").layers[1:]} == {"float16"}
    _assert_identical(whole, resumed)


def test_training_resumes_only_with_its_precision_and_backend(contest, tmp_path, finished, monkeypatch):
    import keras

    from models import precision
    from models.device import Device

    shutil.copy(finished().checkpoints[0], tmp_path / "run.npz")
    with monkeypatch.context() as patch:
        patch.setattr(precision, "this_device", lambda: Device("gpu", True))
        with pytest.raises(UserError, match=r"run.npz. Expected float32 on \w+, got mixed_bfloat16"):
            _train(contest, tmp_path / "run.npz")
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "another")
        with pytest.raises(UserError, match=r"got float32 on another. Resume it .* --force"):
            _train(contest, tmp_path / "run.npz")
    assert len(_train(contest, tmp_path / "run.npz")[1]) == 2


def test_average_accumulation_unfreezing_and_the_best_epoch_survive_kills(contest, tmp_path):
    """Kills within the first epoch, at the end of the second, and within the third, whose layers are unfrozen."""
    whole = _finish(contest, tmp_path / "whole.npz", EVERYTHING)
    killed = tmp_path / "killed.npz"
    assert _train(contest, killed, EVERYTHING, at_step=(0, 0)) is None and not killed.exists()
    shutil.copy(whole.checkpoints[1], killed)
    assert _train(contest, killed, EVERYTHING, at_step=(2, 0)) is None
    assert killed.read_bytes() == whole.checkpoints[1].read_bytes()
    assert _train(contest, killed, EVERYTHING, after_epoch=3) is None
    _assert_identical(whole, _train(contest, killed, EVERYTHING))
    assert len(whole.history.inner_losses) == 4


def test_a_finished_checkpoint_gives_the_same_network_again(contest, tmp_path, finished):
    settings = replace(SMALL, ema=0.9)
    whole = finished(settings)
    _assert_identical(whole, _resume(contest, whole.checkpoints[1], tmp_path, settings))
    assert (tmp_path / "resumed.npz").read_bytes() == whole.checkpoints[1].read_bytes()


def test_averaging_changes_the_returned_weights_but_not_the_training(finished):
    """Two identical trainings: the one without averaging shows the last weights."""
    plain, averaged = finished(), finished(replace(SMALL, ema=0.9))
    assert plain.history == averaged.history
    last_weights = load_arrays(averaged.checkpoints[1])
    for index, (path, last) in enumerate(plain.values.items()):
        np.testing.assert_array_equal(last, last_weights[f"v{index:04d}"])
        if path.endswith(("kernel", "moving_mean", "moving_variance")):
            assert not np.array_equal(last, averaged.values[path]), path


def test_the_average_follows_its_formula_and_includes_statistics_but_no_counters():
    from models.slice_network import slice_network
    from models.weight_averaging import WeightAverage, averaged_variables

    model = slice_network(SMALL, "tiny", "none")
    paths = [variable.path for variable in averaged_variables(model)]
    assert any(path.endswith("moving_variance") for path in paths)
    assert not any("seed" in path for path in paths)
    average, random = WeightAverage(model, 0.25), np.random.default_rng(0)
    expected = _values(averaged_variables(model)[0])
    for step in range(1, 5):
        new = random.random(expected.shape, dtype=np.float32)
        averaged_variables(model)[0].assign(new)
        average.update()
        decay = min(0.25, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * new
    np.testing.assert_allclose(average.values()[0], expected, rtol=1e-5)
    with average.in_use():
        np.testing.assert_allclose(_values(averaged_variables(model)[0]), expected, rtol=1e-5)
    np.testing.assert_array_equal(_values(averaged_variables(model)[0]), new)


def test_accumulated_batches_equal_one_large_batch(contest, tmp_path, monkeypatch):
    """Without batch normalisation and dropout, two batches of 4 give the same step as one batch of 8."""
    from keras import layers

    from models import clot_map
    from models.backbones import BACKBONES, Backbone

    graph = Backbone(lambda images: layers.ReLU()(layers.Conv2D(8, 5, 4)(images)), (0.5,) * 3, (0.5,) * 3, "none")
    monkeypatch.setitem(BACKBONES, "tiny", graph)
    monkeypatch.setattr(clot_map, "BatchNormalization", lambda **_: layers.Identity())
    plain = replace(SMALL, dropout=0.0, epochs=1, epoch_slices=16, frozen_share=0.0)

    def kernel(name, settings):
        return _values(_train(contest, tmp_path / name, settings)[0].get_layer("features").kernel)

    large = kernel("large.npz", plain)
    accumulated = kernel("accumulated.npz", replace(plain, batch=4, accumulate=2))
    small = kernel("small.npz", replace(plain, batch=4))
    assert np.abs(large - accumulated).mean() < 1e-5
    assert np.abs(large - small).mean() > 1e-4


@pytest.mark.compiled
def test_frozen_layers_do_not_change_until_they_are_unfrozen(contest, tmp_path):
    """The kernel of the backbone is the first variable of the network."""
    import keras

    from models.slice_network import slice_network

    settings = replace(SMALL, frozen_share=1.0, unfreeze_epoch=2)
    trained = _finish(contest, tmp_path / "run.npz", settings)
    keras.utils.set_random_seed(settings.seed)
    kernel = slice_network(settings, "tiny", "none").get_layer("tiny").variables[0]
    assert kernel.path.endswith("kernel") and kernel.shape[0] == 5
    frozen, unfrozen = (load_arrays(checkpoint)["v0000"] for checkpoint in trained.checkpoints)
    assert np.array_equal(frozen, _values(kernel))
    assert not np.array_equal(unfrozen, frozen)


def test_weight_decay_applies_to_kernels_only():
    import keras

    from models.optimizer import build_optimizer
    from models.slice_network import slice_network

    model = slice_network(replace(SMALL, frozen_share=0.0), "tiny", "none")
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones_like(variable))
    optimizer = build_optimizer(model, replace(SMALL, weight_decay=0.5, learning_rate=0.2))
    optimizer.apply([keras.ops.zeros_like(variable) for variable in model.trainable_variables])
    # The learning rate of the first batch is 1/20 of the highest: 1 - 0.5 * 0.2 / 20.
    for variable in model.trainable_variables:
        expected = 0.995 if variable.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(_values(variable), expected, rtol=1e-6, err_msg=variable.path)


def test_the_learning_rate_warms_up_decays_and_continues_after_unfreezing():
    from models.optimizer import WarmCosine

    rates = [float(WarmCosine(1.0, 100)(step)) for step in range(101)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == pytest.approx(1.0) and np.argmax(rates) == 10
    assert rates[100] == pytest.approx(0.01) and (np.diff(rates[10:]) < 0).all()
    assert float(WarmCosine(1.0, 100, done=40)(7)) == pytest.approx(rates[47])
    assert float(WarmCosine(1.0, 100, done=40, batches=2)(15)) == pytest.approx(rates[47])


def test_the_weights_of_the_best_inner_epoch_are_kept_and_training_stops_after_patience(contest, tmp_path, monkeypatch):
    from models.inner_split import InnerExams

    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    weights_by_epoch = []

    def loss(self, model):
        weights_by_epoch.append([_values(variable) for variable in model.variables])
        return next(losses)

    monkeypatch.setattr(InnerExams, "loss", loss)
    settings = replace(SMALL, epochs=5, inner_share=0.4, patience=2)
    model, history = _train(contest, tmp_path / "run.npz", settings)
    assert history.inner_losses == [0.9, 0.5, 0.7, 0.6] and history.best_epoch == 2
    for value, variable in zip(weights_by_epoch[1], model.variables, strict=True):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(value, _values(variable), err_msg=variable.path)


def test_inner_exams_are_not_trained_on(contest, tmp_path, monkeypatch):
    """All views of the training part are augmented, none of the inner part is, and no exam is in both."""
    from models.slice_views import UNCHANGED, SliceViews

    trained, evaluated = set(), set()
    original = SliceViews.view

    def view(self, study, plane, augmentation=UNCHANGED):
        (evaluated if augmentation is UNCHANGED else trained).add(study)
        return original(self, study, plane, augmentation)

    monkeypatch.setattr(SliceViews, "view", view)
    _train(contest, tmp_path / "run.npz", replace(SMALL, epochs=1, inner_share=0.4))
    assert trained and evaluated and not trained & evaluated


def test_the_inner_loss_is_the_training_loss_without_augmentation(contest):
    from models.inner_split import InnerExams
    from models.slice_network import slice_network, weighted_logistic_loss
    from models.slice_targets import sampled_targets
    from models.slice_views import SliceViews

    settings = replace(SMALL, sampling="uniform", epoch_slices=5 * len(contest[1]))
    views, model = SliceViews(contest[0], settings), slice_network(settings, "tiny", "none")
    planes = zip(contest[1][STUDY], contest[1]["plane"], strict=True)
    images = np.stack([views.view(study, plane) for study, plane in planes])
    targets, _ = sampled_targets(contest[1], settings)
    expected = np.mean(weighted_logistic_loss(targets, model.predict_on_batch(images)["logits"]))
    assert InnerExams(contest[1], views, settings).loss(model) == pytest.approx(expected, rel=1e-5)


def test_weights_that_are_nan_are_never_saved(contest, tmp_path, monkeypatch):
    """The last step of the epoch breaks the weights, so no later loss shows it."""
    from models import slice_training

    def break_weights(run, *_):
        run.model.variables[0].assign(np.full(run.model.variables[0].shape, np.nan))
        return 0.5

    monkeypatch.setattr(slice_training, "train_epoch", break_weights)
    with pytest.raises(UserError, match="diverged: .*kernel is not finite after epoch 1"):
        _train(contest, tmp_path / "run.npz")
    assert not (tmp_path / "run.npz").exists()


def test_training_changes_the_weights_and_the_loss_stays_finite(finished):
    trained = finished()
    assert np.isfinite(trained.history.losses).all()
    for (path, value), before in zip(trained.values.items(), trained.started, strict=True):
        assert np.isfinite(value).all() and not (path.endswith("kernel") and np.allclose(value, before)), path


@pytest.mark.parametrize("source", [SMALL, replace(SMALL, embedding=5, pooling="gem", trainable_windows=True)])
def test_a_backbone_can_be_taken_from_a_run_with_another_head(contest, tmp_path, source):
    from models.checkpoint import save_weights
    from models.slice_network import has_local_map, slice_network

    trained = slice_network(source, "tiny", "none", local_map=True)
    save_weights(tmp_path / "weights.npz", trained)
    initialised = slice_network(SMALL, "tiny", str(tmp_path / "weights.npz"), local_map=True)
    fresh = slice_network(SMALL, "tiny", "none")
    backbone_weights = trained.get_layer("tiny").get_weights()
    assert not np.array_equal(backbone_weights[0], fresh.get_layer("tiny").get_weights()[0])
    for expected, values in zip(backbone_weights, initialised.get_layer("tiny").get_weights(), strict=True):
        np.testing.assert_array_equal(values, expected)
    settings = replace(SMALL, epochs=1, weights=str(tmp_path / "weights.npz"))
    finetuned, _ = _train(contest, tmp_path / "next.npz", settings)
    assert has_local_map(finetuned)  # these exams have no clot masks
    assert len(finetuned.variables) == len(initialised.variables)


def test_unusable_weights_are_errors_with_the_expected_file(contest, tmp_path):
    from models.checkpoint import save_weights
    from models.slice_network import slice_network

    def message(name, content, settings=SMALL):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            slice_network(settings, "tiny", str(tmp_path / name))
        return str(caught.value)

    save_weights(tmp_path / "weights.npz", slice_network(SMALL, "tiny", "none"))
    whole = (tmp_path / "weights.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in (whole[:-30], whole[:200], b"no archive", b"", (tmp_path / "array.npy").read_bytes()):
        assert re.search(r"unreadable file: .*bad.npz", message("bad.npz", content))
    other_channels = message("weights.npz", whole, replace(SMALL, windows=("pe", "lung")))
    assert re.search(r"backbone not found: .* a run with tiny, as many models.windows \(6 channels", other_channels)
    with pytest.raises(
        UserError, match=r"file not found. Expected imagenet, none or .*models/tiny/fold0/weights.*missing.npz"
    ):
        slice_network(SMALL, "tiny", str(tmp_path / "missing.npz"))
    with pytest.raises(UserError, match="tiny: no ImageNet weights available"):
        slice_network(SMALL, "tiny", "imagenet")


def test_divergence_is_an_error_with_the_step(contest, tmp_path):
    # The first step computes its loss before it breaks the weights.
    with pytest.raises(UserError, match=r"diverged: loss nan at epoch 1, step 2 of 2\."):
        _train(contest, tmp_path / "run.npz", replace(SMALL, epoch_slices=16, learning_rate=float("nan")))


def test_a_truncated_checkpoint_is_an_error(contest, tmp_path, finished):
    checkpoint = tmp_path / "run.npz"
    checkpoint.write_bytes(finished().checkpoints[0].read_bytes()[:2000])
    with pytest.raises(UserError, match="damaged file: .*run.npz"):
        _train(contest, checkpoint)


def test_the_loss_is_the_weighted_cross_entropy_and_weight_zero_masks_a_label():
    from models.slice_network import weighted_logistic_loss

    logits = np.array([[0.3, -1.0, 2.0]], np.float32)
    truth = np.array([[1, 0, 1]], np.float32)
    weight = np.array([[1.0, 0.5, 0.0]], np.float32)
    p = 1 / (1 + np.exp(-logits))
    expected = -(np.log(p[0, 0]) + 0.5 * np.log(1 - p[0, 1]))
    loss = np.asarray(weighted_logistic_loss(np.concatenate([truth, weight], axis=1), logits))
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


def test_openvino_equals_keras(tmp_path):
    from models.prediction_engine import export_graph, keras_engine, openvino_engine
    from models.slice_network import slice_network

    model = slice_network(SMALL, "tiny", "none")
    images = np.random.default_rng(0).random((5, 32, 32, 3), dtype=np.float32)
    keras_logits, keras_embedding, keras_map = keras_engine(model)(images)
    export_graph(model, tmp_path)
    logits, embedding, clot = openvino_engine(tmp_path, 1)(images)
    np.testing.assert_allclose(logits, keras_logits, atol=1e-3)
    np.testing.assert_allclose(embedding, keras_embedding, atol=1e-3)
    np.testing.assert_allclose(clot, keras_map, atol=1e-3)


def test_openvino_opens_no_connection_and_needs_no_home(tmp_path):
    """First with a home folder, in a copy of the process that has imported Keras; then without one, as unknown user."""
    script = """
import os, pwd, socket, sys
known = pwd.getpwuid
def unknown(uid):
    raise KeyError(uid)
pwd.getpwuid = unknown
def refuse(*_, **__):
    print("CONNECTION", flush=True)
    raise OSError("no network")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from pathlib import Path
import keras
import numpy as np
from models.prediction_engine import export_graph, openvino_engine
assert "openvino" not in sys.modules
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    pwd.getpwuid, os.environ["HOME"] = known, sys.argv[1]
out = Path(sys.argv[1] if child == 0 else sys.argv[2])
image = keras.Input((32, 32, 3))
cells = keras.layers.Conv2D(4, 3)(image)
pooled = keras.layers.GlobalAveragePooling2D()(cells)
outputs = {"logits": keras.layers.Dense(2)(pooled), "embedding": pooled, "map": cells}
export_graph(keras.Model(image, outputs), out)
openvino_engine(out, 1)(np.zeros((1, 32, 32, 3), np.float32))
print("home" if child == 0 else "no home", "openvino_telemetry.main" in sys.modules, flush=True)
os._exit(0)
"""
    environment = {name: value for name, value in os.environ.items() if name != "HOME"}
    environment |= {"PYTHONPATH": str(paths.CHECKOUT)}
    for name in ("home", "out"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-c", script, str(tmp_path / "home"), str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.splitlines() == ["home False", "no home False"], done.stderr
    assert not (tmp_path / "home" / "intel").exists()


def test_predictions_keep_the_order_and_swap_sides_in_the_flipped_pass(contest):
    from models.prediction_engine import predict_slices
    from models.slice_views import SliceViews

    left, right = TARGETS.index("leftsided_pe"), TARGETS.index("rightsided_pe")

    def engine(images):  # the logit of "left" is the brightness of the image's right half
        logits = np.zeros((len(images), len(TARGETS)))
        logits[:, left] = images[:, :, 16:].mean(axis=(1, 2, 3))
        logits[:, right] = images[:, :, :16].mean(axis=(1, 2, 3))
        return logits, images.mean(axis=(1, 2)), np.zeros((len(images), 4, 4, MAP_CHANNELS), np.float32)

    batches = predict_slices(engine, contest[1], SliceViews(contest[0], SMALL), SMALL)
    frames, embeddings, maps = zip(*batches, strict=True)
    frame = pd.concat(frames)
    assert frame["SOPInstanceUID"].tolist() == contest[1]["SOPInstanceUID"].tolist()
    # With the sides swapped back, the flipped pass equals the first, so the mean equals both.
    plain = SliceViews(contest[0], SMALL).view("pos1", 0)[:, 16:].mean()
    np.testing.assert_allclose(frame["leftsided_pe"].iloc[0], 1 / (1 + np.exp(-plain)), atol=1e-6)
    assert embeddings[0].dtype == np.float16
    assert maps[0].dtype == np.uint8
    assert maps[0].shape[1:] == (4, 4)


def test_predictions_do_not_depend_on_the_number_of_loaders(contest):
    from models.prediction_engine import predict_slices
    from models.slice_views import SliceViews

    slices = pd.concat([contest[1]] * 6, ignore_index=True)  # several batches
    thread_ids = set()

    class Views(SliceViews):
        def view(self, study, plane):
            thread_ids.add(threading.get_ident())
            time.sleep(0.001)
            return super().view(study, plane)

    def engine(images):
        logits = np.repeat(images.mean(axis=(1, 2, 3))[:, None], len(TARGETS), axis=1)
        return logits, images.mean(axis=(1, 2)), np.zeros((len(images), 4, 4, MAP_CHANNELS), np.float32)

    def predict(loaders):
        thread_ids.clear()
        batches = predict_slices(engine, slices, Views(contest[0], SMALL), SMALL, loaders=loaders)
        frames, embeddings, _ = zip(*batches, strict=True)
        return pd.concat(frames, ignore_index=True), np.concatenate(embeddings), len(thread_ids)

    (frame, vectors, threads), (other_frame, other_vectors, other_threads) = predict(1), predict(3)
    pd.testing.assert_frame_equal(frame, other_frame, check_exact=True)
    np.testing.assert_array_equal(vectors, other_vectors)
    assert (threads, other_threads) == (1, 3)


@pytest.mark.parametrize(("threads", "loaders"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (64, 8)])
def test_half_of_the_threads_prepare_batches(threads, loaders):
    assert loader_threads(threads) == loaders
