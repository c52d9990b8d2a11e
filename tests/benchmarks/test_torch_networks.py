"""The networks that the benchmark beside PyTorch compares are equal."""

import numpy as np
import pytest

from models.slice_targets import TARGETS
from pipeline.settings import ModelsSettings


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mobilenetv2", "resnet50v2"])
def test_both_sides_have_equal_numbers_of_weights_and_maps_of_equal_size(network):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_networks import NETWORKS, SliceNetwork
    from models.slice_network import slice_network

    ours = slice_network(ModelsSettings(height=64, width=64, frozen_share=0.0), network, "none")
    theirs = SliceNetwork(network, 64, len(TARGETS), 0.2)
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(
        int(np.prod(variable.shape)) for variable in ours.trainable_variables
    )
    body, channels = NETWORKS[network]()
    features = body(torch.zeros(1, 3, 64, 64))
    assert tuple(features.shape) == (1, channels, *ours.get_layer("average").input.shape[1:3])
