"""The networks that the benchmark beside PyTorch compares are the same ones."""

import numpy as np
import pytest

from models.slice_targets import TARGETS
from pipeline.settings import ModelsSettings


@pytest.mark.slow
@pytest.mark.parametrize("network", ["mobilenetv2", "resnet50v2"])
def test_both_sides_have_equally_many_weights_and_maps_of_the_same_size(network):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_networks import NETWORKS, SliceNetwork
    from models.slice_network import slice_network

    ours = slice_network(ModelsSettings(height=64, width=64, frozen_share=0.0), network, "none")
    theirs = SliceNetwork(network, 64, len(TARGETS), 0.2)
    assert sum(each.numel() for each in theirs.parameters()) == sum(
        int(np.prod(each.shape)) for each in ours.trainable_variables
    )
    body, channels = NETWORKS[network]()
    features = body(torch.zeros(1, 3, 64, 64))
    assert tuple(features.shape) == (1, channels, *ours.get_layer("average").input.shape[1:3])
