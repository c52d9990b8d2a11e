"""The networks that the benchmarks beside PyTorch compare are equal."""

import numpy as np
import pytest

from pipeline.settings import ModelsSettings


@pytest.mark.slow
@pytest.mark.parametrize("local_map", [False, True])
@pytest.mark.parametrize("network", ["mobilenetv2", "resnet50v2"])
def test_both_sides_have_equal_numbers_of_weights_and_maps_and_outputs_of_equal_size(network, local_map):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_networks import SliceNetwork
    from models.slice_network import slice_network

    # On smaller images, padded maps of ResNet50V2 have the size of maps at a finer stride.
    settings = ModelsSettings(height=128, width=128, frozen_share=0.0)
    ours = slice_network(settings, network, "none", local_map=local_map)
    theirs = SliceNetwork(network, 64, 0.2, local_map=local_map).eval()
    assert sum(parameter.numel() for parameter in theirs.parameters()) == sum(
        int(np.prod(variable.shape)) for variable in ours.trainable_variables
    )
    images = torch.zeros(1, 3, 128, 128)
    *_, features = theirs.backbone(images)
    y, x, channels = ours.get_layer("average").input.shape[1:]
    assert tuple(features.shape) == (1, channels, y, x)
    logits, embedding, cells, evidence = theirs(images)
    sizes = {"logits": logits, "embedding": embedding, "map": cells.permute(0, 2, 3, 1), "evidence": evidence}
    assert {name: tuple(tensor.shape[1:]) for name, tensor in sizes.items()} == {
        name: output.shape[1:] for name, output in ours.output.items()
    }
