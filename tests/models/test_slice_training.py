"""Networks and training: every backbone learns a step, a killed run ends with the same bytes."""

import threading
import time
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from features.lung_box import Box
from features.store import write_exam
from input.contest import SLICE_LABEL, STUDY
from models.batches import loader_threads
from models.checkpoint import load_arrays
from models.progress import TrainingLog
from models.slice_targets import TARGETS
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

SMALL = ModelsSettings(
    height=32, width=32, embedding=8, epochs=2, epoch_slices=16, batch=8, weights="none", learning_rate=1e-3
)

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
def tiny_backbone(monkeypatch):
    """A backbone with every kind of layer state (kernels, statistics) that compiles in no time."""
    from keras import layers

    from models.backbones import BACKBONES, Backbone

    def graph(images):
        return layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 5, 4)(images)))

    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))


def _values(variable):
    import keras

    return np.copy(keras.ops.convert_to_numpy(variable))


class Killed(Exception):
    """Stands for a kill: nothing after it runs."""


class KillingLog(TrainingLog):
    """Ends the training after an epoch, or in the middle of one (epochs and steps count from 0)."""

    def __init__(self, epochs, after_epoch=None, at_step=None):
        super().__init__(epochs)
        self._after_epoch, self._at_step = after_epoch, at_step

    def step(self, epoch, step, loss, slices):
        if (epoch, step) == self._at_step:
            raise Killed

    def epoch(self, history):
        if len(history) == self._after_epoch:
            raise Killed


def _train(contest, checkpoint, settings=SMALL, **kill):
    import keras

    from models.slice_training import train_network
    from models.slice_views import SliceViews

    keras.utils.set_random_seed(settings.seed)
    log = KillingLog(settings.epochs, **kill)
    try:
        return train_network(contest[1], SliceViews(contest[0], settings), settings, "tiny", checkpoint, log)
    except Killed:
        return None


#: Every part of a recipe that has a memory from epoch to epoch, at once; the layers are unfrozen in the third.
EVERYTHING = replace(
    SMALL, epochs=4, ema=0.8, accumulate=2, batch=4, frozen_share=0.9, unfreeze_epoch=3, inner_share=0.4, patience=4,
)  # fmt: skip


def _same_bytes(first, second):
    (one, history), (two, other) = first, second
    assert history == other
    for left, right in zip(one.variables, two.variables, strict=True):
        assert np.array_equal(_values(left), _values(right)), left.path


def test_a_killed_run_resumes_to_the_same_bytes(contest, tmp_path):
    whole = _train(contest, tmp_path / "whole.npz")
    assert _train(contest, tmp_path / "killed.npz", after_epoch=1) is None
    _same_bytes(whole, _train(contest, tmp_path / "killed.npz"))
    assert len(whole[1]) == 2


def test_in_float16_the_loss_is_scaled_and_the_scale_survives_a_kill(contest, tmp_path, monkeypatch):
    from keras.optimizers import LossScaleOptimizer

    from models import precision

    monkeypatch.setattr(precision, "this_device", lambda: precision.Device("gpu", False))
    whole = _train(contest, tmp_path / "whole.npz")
    assert isinstance(whole[0].optimizer, LossScaleOptimizer)
    assert {each.compute_dtype for each in whole[0].get_layer("tiny").layers[1:]} == {"float16"}
    assert _train(contest, tmp_path / "killed.npz", after_epoch=1) is None
    _same_bytes(whole, _train(contest, tmp_path / "killed.npz"))


def test_training_goes_on_only_in_its_precision_and_on_its_backend(contest, tmp_path, monkeypatch):
    import keras

    from models import precision

    assert _train(contest, tmp_path / "run.npz", after_epoch=1) is None
    with monkeypatch.context() as patch:
        patch.setattr(precision, "this_device", lambda: precision.Device("gpu", True))
        with pytest.raises(UserError, match=r"run.npz: training was begun in float32 on \w+; here .* mixed_bfloat16"):
            _train(contest, tmp_path / "run.npz")
    with monkeypatch.context() as patch:
        patch.setattr(keras.backend, "backend", lambda: "another")
        with pytest.raises(UserError, match=r"go on in float32 on another. Resume it there, or .* --force"):
            _train(contest, tmp_path / "run.npz")
    assert len(_train(contest, tmp_path / "run.npz")[1]) == 2


def test_average_accumulation_unfreezing_and_the_best_epoch_survive_kills(contest, tmp_path):
    """Killed within the first epoch, at the end of the second, and within the third, whose layers are unfrozen."""
    whole = _train(contest, tmp_path / "whole.npz", EVERYTHING)
    killed = tmp_path / "killed.npz"
    assert _train(contest, killed, EVERYTHING, at_step=(0, 1)) is None and not killed.exists()
    assert _train(contest, killed, EVERYTHING, after_epoch=2) is None
    assert _train(contest, killed, EVERYTHING, at_step=(2, 2)) is None
    assert _train(contest, killed, EVERYTHING, after_epoch=3) is None
    _same_bytes(whole, _train(contest, killed, EVERYTHING))
    assert len(whole[1].inner_losses) == 4


def test_a_finished_checkpoint_gives_the_same_network_again(contest, tmp_path):
    settings = replace(SMALL, ema=0.9)
    first = _train(contest, tmp_path / "run.npz", settings)
    written = (tmp_path / "run.npz").read_bytes()
    _same_bytes(first, _train(contest, tmp_path / "run.npz", settings))
    assert (tmp_path / "run.npz").read_bytes() == written


def test_the_average_predicts_and_training_goes_on_from_the_last_step(contest, tmp_path):
    """Two networks trained alike: the one without averaging shows what the last weights are."""
    plain, history = _train(contest, tmp_path / "plain.npz")
    averaged, other = _train(contest, tmp_path / "averaged.npz", replace(SMALL, ema=0.9))
    assert history == other
    last = load_arrays(tmp_path / "averaged.npz")
    for index, (one, two) in enumerate(zip(plain.variables, averaged.variables, strict=True)):
        np.testing.assert_array_equal(_values(one), last[f"v{index:04d}"])
        if one.path.endswith(("kernel", "moving_mean", "moving_variance")):
            assert not np.array_equal(_values(one), _values(two)), one.path


def test_the_average_is_the_formula_and_holds_statistics_but_no_counters():
    from models.slice_network import slice_network
    from models.weight_averaging import WeightAverage, averaged_variables

    model = slice_network(SMALL, "tiny", "none")
    paths = [each.path for each in averaged_variables(model)]
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


def test_accumulated_batches_are_one_large_batch(contest, tmp_path, monkeypatch):
    """Without batch normalisation and dropout, two batches of 4 make the step of one batch of 8."""
    from keras import layers

    from models.backbones import BACKBONES, Backbone

    graph = Backbone(lambda images: layers.ReLU()(layers.Conv2D(8, 5, 4)(images)), (0.5,) * 3, (0.5,) * 3, "none")
    monkeypatch.setitem(BACKBONES, "tiny", graph)
    plain = replace(SMALL, dropout=0.0, epochs=1, frozen_share=0.0)

    def kernel(name, settings):
        return _values(_train(contest, tmp_path / name, settings)[0].get_layer("embedding").kernel)

    large = kernel("large.npz", plain)
    accumulated = kernel("accumulated.npz", replace(plain, batch=4, accumulate=2))
    small = kernel("small.npz", replace(plain, batch=4))
    assert np.abs(large - accumulated).mean() < 1e-5
    assert np.abs(large - small).mean() > 1e-4


def test_frozen_layers_stand_still_until_they_are_unfrozen(contest, tmp_path):
    frozen = replace(SMALL, frozen_share=1.0)
    assert _train(contest, tmp_path / "first.npz", frozen, after_epoch=1) is None
    start = load_arrays(tmp_path / "first.npz")["v0000"]
    held, _ = _train(contest, tmp_path / "held.npz", frozen)
    freed, _ = _train(contest, tmp_path / "freed.npz", replace(frozen, unfreeze_epoch=2))
    assert held.variables[0].path.endswith("kernel") and held.variables[0].shape[0] == 5  # the backbone's
    assert np.array_equal(_values(held.variables[0]), start)
    assert not np.array_equal(_values(freed.variables[0]), start)


def test_weight_decay_shrinks_kernels_and_spares_the_rest():
    import keras

    from models.optimizer import build_optimizer
    from models.slice_network import slice_network

    model = slice_network(replace(SMALL, frozen_share=0.0), "tiny", "none")
    for variable in model.trainable_variables:
        variable.assign(keras.ops.ones_like(variable))
    optimizer = build_optimizer(model, replace(SMALL, weight_decay=0.5, learning_rate=0.2))
    optimizer.apply([keras.ops.zeros_like(each) for each in model.trainable_variables])
    # The first batch's rate is a twentieth of the highest: 1 - .5 * .2 / 20.
    for variable in model.trainable_variables:
        expected = 0.995 if variable.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(_values(variable), expected, rtol=1e-6, err_msg=variable.path)


def test_the_rate_warms_up_then_falls_and_goes_on_after_unfreezing():
    from models.optimizer import WarmCosine

    rates = [float(WarmCosine(1.0, 100)(step)) for step in range(101)]
    assert rates[0] == pytest.approx(0.05) and max(rates) == pytest.approx(1.0) and np.argmax(rates) == 10
    assert rates[100] == pytest.approx(0.01) and (np.diff(rates[10:]) < 0).all()
    assert float(WarmCosine(1.0, 100, done=40)(7)) == pytest.approx(rates[47])
    assert float(WarmCosine(1.0, 100, done=40, batches=2)(15)) == pytest.approx(rates[47])


def test_the_best_inner_epoch_is_kept_and_training_stops_after_patience(contest, tmp_path, monkeypatch):
    from models.inner_split import InnerExams

    losses = iter([0.9, 0.5, 0.7, 0.6, 0.1])
    seen = []

    def loss(self, model):
        seen.append([_values(each) for each in model.variables])
        return next(losses)

    monkeypatch.setattr(InnerExams, "loss", loss)
    model, history = _train(contest, tmp_path / "run.npz", replace(SMALL, epochs=5, inner_share=0.4, patience=2))
    assert history.inner_losses == [0.9, 0.5, 0.7, 0.6] and history.best_epoch == 2
    for value, variable in zip(seen[1], model.variables, strict=True):
        if "seed" not in variable.path:
            np.testing.assert_array_equal(value, _values(variable), err_msg=variable.path)


def test_inner_exams_are_not_trained_on(contest, tmp_path, monkeypatch):
    """Every view of the training part is augmented, none of the inner part is; no exam is in both."""
    from models.slice_views import UNCHANGED, SliceViews

    trained, asked = set(), set()
    original = SliceViews.view

    def view(self, study, plane, change=UNCHANGED):
        (asked if change is UNCHANGED else trained).add(study)
        return original(self, study, plane, change)

    monkeypatch.setattr(SliceViews, "view", view)
    _train(contest, tmp_path / "run.npz", replace(SMALL, epochs=1, inner_share=0.4))
    assert trained and asked and not trained & asked


def test_the_inner_loss_is_the_training_loss_of_unchanged_slices(contest):
    from models.inner_split import InnerExams
    from models.slice_network import slice_network, weighted_logistic_loss
    from models.slice_targets import drawn_targets
    from models.slice_views import SliceViews

    settings = replace(SMALL, sampling="uniform", epoch_slices=5 * len(contest[1]))
    views, model = SliceViews(contest[0], settings), slice_network(settings, "tiny", "none")
    places = zip(contest[1][STUDY], contest[1]["plane"], strict=True)
    images = np.stack([views.view(study, plane) for study, plane in places])
    targets, _ = drawn_targets(contest[1], settings)
    expected = np.mean(weighted_logistic_loss(targets, model.predict_on_batch(images)["logits"]))
    assert InnerExams(contest[1], views, settings).loss(model) == pytest.approx(expected, rel=1e-5)


def test_weights_that_are_no_numbers_are_never_saved(contest, tmp_path, monkeypatch):
    """A step that ruins the weights is the epoch's last: no later loss would show it."""
    from models import slice_training as training

    def ruin(run, *_):
        run.model.variables[0].assign(np.full(run.model.variables[0].shape, np.nan))
        return 0.5

    monkeypatch.setattr(training, "train_epoch", ruin)
    with pytest.raises(UserError, match="diverged: .*kernel is not finite after epoch 1"):
        _train(contest, tmp_path / "run.npz")
    assert not (tmp_path / "run.npz").exists()


def test_training_moves_the_weights_and_keeps_the_loss_finite(contest, tmp_path):
    from models.slice_network import slice_network

    model, history = _train(contest, tmp_path / "run.npz")
    fresh = slice_network(SMALL, "tiny", "none")
    assert np.isfinite(history.losses).all()
    assert not np.allclose(model.get_layer("logits").get_weights()[0], fresh.get_layer("logits").get_weights()[0])


@pytest.mark.parametrize("donor", [SMALL, replace(SMALL, embedding=5, pooling="gem", trainable_windows=True)])
def test_a_run_gives_its_backbone_to_another_whatever_its_head(contest, tmp_path, donor):
    from models.checkpoint import save_weights
    from models.slice_network import slice_network

    trained, _ = _train(contest, tmp_path / "run.npz", donor)
    save_weights(tmp_path / "weights.npz", trained)
    taken = slice_network(SMALL, "tiny", str(tmp_path / "weights.npz"))
    fresh = slice_network(SMALL, "tiny", "none")
    learned = trained.get_layer("tiny").get_weights()
    assert not np.array_equal(learned[0], fresh.get_layer("tiny").get_weights()[0])
    for expected, found in zip(learned, taken.get_layer("tiny").get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    follower, _ = _train(contest, tmp_path / "next.npz", replace(SMALL, weights=str(tmp_path / "weights.npz")))
    assert len(follower.variables) == len(taken.variables)


def test_weights_that_do_not_fit_are_told_with_what_is_expected(contest, tmp_path):
    from models.checkpoint import save_weights
    from models.slice_network import slice_network

    def told(name, content, settings=SMALL):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError) as caught:
            slice_network(settings, "tiny", str(tmp_path / name))
        return str(caught.value)

    save_weights(tmp_path / "weights.npz", slice_network(SMALL, "tiny", "none"))
    whole = (tmp_path / "weights.npz").read_bytes()
    np.save(tmp_path / "array.npy", np.zeros(3))
    for content in (whole[:-30], whole[:200], b"no archive", b"", (tmp_path / "array.npy").read_bytes()):
        assert "bad.npz': damaged, or no weights.npz of a run" in told("bad.npz", content)
    two = told("weights.npz", whole, replace(SMALL, windows=("pe", "lung")))
    assert "hold no tiny of 6 channels; expected the weights.npz of a run with that backbone and as many" in two
    with pytest.raises(
        UserError, match=r"no such file; expected imagenet, none or what .*models/runs/tiny/fold0/weights"
    ):
        slice_network(SMALL, "tiny", str(tmp_path / "nowhere.npz"))
    with pytest.raises(UserError, match="tiny: comes without ImageNet weights"):
        slice_network(SMALL, "tiny", "imagenet")


def test_divergence_stops_with_the_step(contest, tmp_path):
    with pytest.raises(UserError, match=r"diverged: loss (nan|inf).* step"):
        _train(contest, tmp_path / "run.npz", replace(SMALL, learning_rate=float("nan")))


def test_a_truncated_checkpoint_is_named(contest, tmp_path):
    checkpoint = tmp_path / "run.npz"
    _train(contest, checkpoint, after_epoch=1)
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(UserError, match="run.npz: damaged"):
        _train(contest, checkpoint)


def test_the_loss_is_the_weighted_cross_entropy_and_weight_zero_masks():
    from models.slice_network import weighted_logistic_loss

    logits = np.array([[0.3, -1.0, 2.0]], np.float32)
    truth = np.array([[1, 0, 1]], np.float32)
    weight = np.array([[1.0, 0.5, 0.0]], np.float32)
    p = 1 / (1 + np.exp(-logits))
    expected = -(np.log(p[0, 0]) + 0.5 * np.log(1 - p[0, 1]))
    loss = np.asarray(weighted_logistic_loss(np.concatenate([truth, weight], axis=1), logits))
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


def test_openvino_equals_keras(tmp_path):
    from models.inference import export_graph, keras_engine, openvino_engine
    from models.slice_network import slice_network

    model = slice_network(SMALL, "tiny", "none")
    images = np.random.default_rng(0).random((5, 32, 32, 3), dtype=np.float32)
    keras_logits, keras_embedding = keras_engine(model)(images)
    export_graph(model, tmp_path)
    logits, embedding = openvino_engine(tmp_path, 1)(images)
    np.testing.assert_allclose(logits, keras_logits, atol=1e-3)
    np.testing.assert_allclose(embedding, keras_embedding, atol=1e-3)


def test_predictions_keep_order_and_swap_sides_under_the_mirror(contest):
    from models.inference import predict_slices
    from models.slice_views import SliceViews

    left, right = TARGETS.index("leftsided_pe"), TARGETS.index("rightsided_pe")

    def engine(images):  # says "left" as loud as the picture's right half is bright
        logits = np.zeros((len(images), len(TARGETS)))
        logits[:, left] = images[:, :, 16:].mean(axis=(1, 2, 3))
        logits[:, right] = images[:, :, :16].mean(axis=(1, 2, 3))
        return logits, images.mean(axis=(1, 2))

    frames, embeddings = zip(*predict_slices(engine, contest[1], SliceViews(contest[0], SMALL), SMALL), strict=True)
    frame = pd.concat(frames)
    assert frame["SOPInstanceUID"].tolist() == contest[1]["SOPInstanceUID"].tolist()
    # The mirrored pass, its sides swapped back, must agree with the first: the mean equals either.
    plain = SliceViews(contest[0], SMALL).view("pos1", 0)[:, 16:].mean()
    np.testing.assert_allclose(frame["leftsided_pe"].iloc[0], 1 / (1 + np.exp(-plain)), atol=1e-6)
    assert embeddings[0].dtype == np.float16


def test_predictions_do_not_depend_on_the_number_of_loaders(contest):
    from models.inference import predict_slices
    from models.slice_views import SliceViews

    slices = pd.concat([contest[1]] * 6, ignore_index=True)  # several batches
    makers = set()

    class Views(SliceViews):
        def view(self, *place):
            makers.add(threading.get_ident())
            time.sleep(0.001)
            return super().view(*place)

    def engine(images):
        return np.repeat(images.mean(axis=(1, 2, 3))[:, None], len(TARGETS), axis=1), images.mean(axis=(1, 2))

    def found(loaders):
        makers.clear()
        batches = predict_slices(engine, slices, Views(contest[0], SMALL), SMALL, loaders=loaders)
        frames, embeddings = zip(*batches, strict=True)
        return pd.concat(frames, ignore_index=True), np.concatenate(embeddings), len(makers)

    one, several = found(1), found(3)
    pd.testing.assert_frame_equal(one[0], several[0], check_exact=True)
    np.testing.assert_array_equal(one[1], several[1])
    assert (one[2], several[2]) == (1, 3)


@pytest.mark.parametrize(("threads", "loaders"), [(1, 1), (2, 1), (3, 1), (4, 2), (16, 8), (64, 8)])
def test_half_of_the_threads_prepare_batches(threads, loaders):
    assert loader_threads(threads) == loaders


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    ["efficientnet_lite0", "mobilenetv2", "efficientnetv2_b0", "efficientnetv2_s", "densenet121", "convnext_tiny",
     "xception", "resnet50v2", "se_resnext50"],
)  # fmt: skip
def test_every_backbone_trains_two_steps(backbone):
    import keras

    from models.slice_network import slice_network, weighted_logistic_loss

    keras.utils.set_random_seed(0)
    settings = ModelsSettings(height=72, width=72, embedding=4, windows=("pe", "lung"))
    model = slice_network(settings, backbone, "none")
    optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1.0)
    model.compile(optimizer, loss={"logits": weighted_logistic_loss}, run_eagerly=True)
    random = np.random.default_rng(0)
    images = random.random((2, 72, 72, 6), dtype=np.float32)
    targets = np.ones((2, 2 * len(TARGETS)), np.float32)
    before = [_values(each) for each in model.trainable_variables]
    losses = [float(model.train_on_batch(images, {"logits": targets})) for _ in range(2)]
    assert np.isfinite(losses).all()
    moved = sum(
        not np.array_equal(old, _values(new)) for old, new in zip(before, model.trainable_variables, strict=True)
    )
    # ConvNeXt scales its blocks by 1e-6 at first: the steps of some kernels drown in the rounding of float32.
    assert moved > 0.8 * len(before)


def test_every_registered_backbone_is_tried():
    from models.backbones import BACKBONES

    tried = test_every_backbone_trains_two_steps.pytestmark[0].args[1]
    assert set(tried) == set(BACKBONES) - {"tiny"}
