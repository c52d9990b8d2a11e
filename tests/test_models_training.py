"""Networks and training: every backbone learns a step, a killed run ends with the same bytes."""

import numpy as np
import pandas as pd
import pytest

from features.lungbox import Box
from features.store import write_exam
from input.contest import SLICE_LABEL, STUDY
from models.targets import TARGETS
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

SMALL = ModelsSettings(
    height=32, width=32, embedding=8, epochs=2, epoch_slices=16, batch=8, weights="none", learning_rate=1e-3
)


@pytest.fixture(scope="module")
def contest(tmp_path_factory):
    """Two stored exams of 6 planes, the first with PE on planes 2 and 3, and their slice table."""
    folder = tmp_path_factory.mktemp("store")
    random = np.random.default_rng(0)
    for study in ("pos", "neg"):
        hu = random.integers(-200, 400, (6, 24, 24)).astype(np.int16)
        write_exam(
            folder, study, "s", hu, z_mm=np.arange(6) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0),
            sop_uids=tuple(f"{study}{index}" for index in range(6)),
            box=Box(y0=0, y1=48, x0=0, x1=48, z0=0, z1=6, middle_x=24.0, found=True),
        )  # fmt: skip
    table = pd.DataFrame({STUDY: ["pos"] * 6 + ["neg"] * 6, "plane": [*range(6), *range(6)]})
    table["SOPInstanceUID"] = table[STUDY] + table["plane"].astype(str)
    table[SLICE_LABEL] = [0.0, 0, 1, 1, 0, 0] + [0.0] * 6
    for name in TARGETS[1:]:
        table[name] = (table[STUDY] == "pos").astype(float)
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


def _train(contest, checkpoint, settings=SMALL, stop_after=None):
    import keras

    from models.training import train_network
    from models.views import SliceViews

    class Killed(Exception):
        pass

    def report(epoch, loss, rate):
        if epoch == stop_after:
            raise Killed

    keras.utils.set_random_seed(settings.seed)
    try:
        return train_network(contest[1], SliceViews(contest[0], settings), settings, "tiny", checkpoint, report)
    except Killed:
        return None


def test_a_killed_run_resumes_to_the_same_bytes(contest, tmp_path):
    whole, losses = _train(contest, tmp_path / "whole.npz")
    assert _train(contest, tmp_path / "killed.npz", stop_after=1) is None
    resumed, resumed_losses = _train(contest, tmp_path / "killed.npz")
    assert losses == resumed_losses and len(losses) == 2
    for first, second in zip(whole.variables, resumed.variables, strict=True):
        assert np.array_equal(_values(first), _values(second)), first.path


def test_training_moves_the_weights_and_keeps_the_loss_finite(contest, tmp_path):
    from models.network import slice_network

    model, losses = _train(contest, tmp_path / "run.npz")
    fresh = slice_network(SMALL, "tiny", "none")
    assert np.isfinite(losses).all()
    assert not np.allclose(model.get_layer("logits").get_weights()[0], fresh.get_layer("logits").get_weights()[0])


def test_divergence_stops_with_the_step(contest, tmp_path):
    from dataclasses import replace

    with pytest.raises(UserError, match=r"diverged: loss (nan|inf).* step"):
        _train(contest, tmp_path / "run.npz", replace(SMALL, learning_rate=float("nan")))


def test_a_truncated_checkpoint_is_named(contest, tmp_path):
    checkpoint = tmp_path / "run.npz"
    _train(contest, checkpoint, stop_after=1)
    checkpoint.write_bytes(checkpoint.read_bytes()[:2000])
    with pytest.raises(UserError, match="run.npz: damaged"):
        _train(contest, checkpoint)


def test_the_loss_is_the_weighted_cross_entropy_and_weight_zero_masks():
    from models.network import weighted_logistic_loss

    logits = np.array([[0.3, -1.0, 2.0]], np.float32)
    truth = np.array([[1, 0, 1]], np.float32)
    weight = np.array([[1.0, 0.5, 0.0]], np.float32)
    p = 1 / (1 + np.exp(-logits))
    expected = -(np.log(p[0, 0]) + 0.5 * np.log(1 - p[0, 1]))
    loss = np.asarray(weighted_logistic_loss(np.concatenate([truth, weight], axis=1), logits))
    np.testing.assert_allclose(loss, [expected], rtol=1e-5)


def test_openvino_equals_keras(tmp_path):
    from models.inference import export_graph, keras_engine, openvino_engine
    from models.network import slice_network

    model = slice_network(SMALL, "tiny", "none")
    images = np.random.default_rng(0).random((5, 32, 32, 3), dtype=np.float32)
    keras_logits, keras_embedding = keras_engine(model)(images)
    export_graph(model, tmp_path)
    logits, embedding = openvino_engine(tmp_path, 1)(images)
    np.testing.assert_allclose(logits, keras_logits, atol=1e-3)
    np.testing.assert_allclose(embedding, keras_embedding, atol=1e-3)


def test_predictions_keep_order_and_swap_sides_under_the_mirror(contest):
    from models.inference import predict_slices
    from models.views import SliceViews

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
    plain = SliceViews(contest[0], SMALL).view("pos", 0)[:, 16:].mean()
    np.testing.assert_allclose(frame["leftsided_pe"].iloc[0], 1 / (1 + np.exp(-plain)), atol=1e-6)
    assert embeddings[0].dtype == np.float16


@pytest.mark.slow
@pytest.mark.parametrize(
    "backbone",
    ["efficientnet_lite0", "mobilenetv2", "efficientnetv2_b0", "efficientnetv2_s", "densenet121", "convnext_tiny",
     "xception", "resnet50v2"],
)  # fmt: skip
def test_every_backbone_trains_two_steps(backbone):
    import keras

    from models.network import slice_network, weighted_logistic_loss

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
