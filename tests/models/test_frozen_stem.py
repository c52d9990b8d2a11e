"""Frozen layers computed by OpenVINO: the split network is the whole one."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline.settings import ModelsSettings

#: These tests build whole backbones.
pytestmark = pytest.mark.slow

SETTINGS = ModelsSettings(height=64, width=80, weights="none", coarsest_stride=16, precision="float32")


@pytest.mark.parametrize(
    ("backbone", "share", "last"),
    [("mobilenetv2", 0.31, "stage3_block1_project_bn"), ("mobilenetv2", 0.33, "stage3_block1_project_bn"),
     ("efficientnet_lite0", 0.35, "stage3_block1_project_bn")],
)  # fmt: skip
def test_stem_and_rest_are_the_network(backbone, share, last):
    from models.frozen_stem import _last_cut
    from models.training_run import TrainingRun

    run = TrainingRun(replace(SETTINGS, frozen_share=share), backbone, "none")
    images = np.random.default_rng(0).random((5, 64, 80, 3), dtype=np.float32)
    assert _last_cut(run.model.get_layer(backbone)).name == last
    whole, rest = run.model.predict_on_batch(images), run.trained.predict_on_batch(run.stem(images))
    for name, values in whole.items():
        np.testing.assert_allclose(rest[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    assert list(map(id, run.trained.trainable_variables)) == list(map(id, run.model.trainable_variables))


@pytest.mark.parametrize(
    "change",
    [{"frozen_share": 0.0}, {"unfreeze_epoch": 1}, {"trainable_windows": True}, {"engine": "keras"},
     {"precision": "mixed_bfloat16"}],
)  # fmt: skip
def test_without_frozen_layers_or_openvino_the_whole_network_is_trained(change):
    from models.training_run import TrainingRun

    run = TrainingRun(replace(SETTINGS, **{"frozen_share": 0.31} | change), "mobilenetv2", "none")
    assert run.stem is None and run.trained is run.model
