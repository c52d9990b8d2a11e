"""Every backbone: a training step, its split behind frozen layers, and published numbers of parameters."""

import numpy as np
import pytest

from models.backbones import BACKBONES
from models.slice_targets import TARGETS
from pipeline.settings import ModelsSettings

#: These tests build whole backbones.
pytestmark = pytest.mark.slow

SETTINGS = ModelsSettings(height=72, width=72, embedding=4, windows=("pe", "lung"), frozen_share=0.24)
#: Backbones without a point that one tensor passes, as far as they are frozen.
NOT_SPLIT = ("convnext_tiny",)
#: Parameters with a classifier of the 1000 classes of ImageNet, for images of three channels.
PUBLISHED = {"se_resnext50": 27_559_896}


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_backbone_trains_a_step_and_is_split_where_one_tensor_passes_or_not_at_all(backbone):
    import keras

    from models.frozen_stem import split
    from models.slice_network import slice_network_with_maps, weighted_logistic_loss

    keras.utils.set_random_seed(0)
    model, maps = slice_network_with_maps(SETTINGS, backbone, "none")
    optimizer = keras.optimizers.SGD(0.1, global_clipnorm=1.0)
    model.compile(optimizer, loss={"logits": weighted_logistic_loss}, run_eagerly=True)
    random = np.random.default_rng(0)
    images = random.random((2, 72, 72, 6), dtype=np.float32)
    targets = np.ones((2, 2 * len(TARGETS)), np.float32)
    before = [values(variable) for variable in model.trainable_variables]
    assert np.isfinite(float(model.train_on_batch(images, {"logits": targets})))
    changed = sum(
        not np.array_equal(old, values(new)) for old, new in zip(before, model.trainable_variables, strict=True)
    )
    # ConvNeXt initially scales its blocks by 1e-6: the step of some kernels is lost in float32 rounding.
    assert changed > 0.8 * len(before)
    assert (split(model, maps, backbone) is None) == (backbone in NOT_SPLIT)
    if backbone in PUBLISHED:
        body = model.get_layer(backbone)
        kernel = next(layer for layer in body.layers if layer.weights).weights[0]
        assert kernel.shape[2] == 6
        statistics = sum(int(np.prod(v.shape)) for v in body.variables if v.name.startswith("moving_"))
        filters = maps[-1].shape[-1]
        parameters = body.count_params() - statistics - int(np.prod(kernel.shape)) // 2 + 1000 * (filters + 1)
        assert parameters == PUBLISHED[backbone]


def values(variable):
    import keras

    return np.copy(keras.ops.convert_to_numpy(variable))
