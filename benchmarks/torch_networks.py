"""The slice networks in plain PyTorch, equal layer by layer to those of `models`, for benchmarks.beside_pytorch.

Papers: Sandler et al. 2018, MobileNetV2 (arXiv 1801.04381); He et al. 2016, Identity Mappings in Deep Residual
Networks (arXiv 1603.05027), in the variant of keras.applications (the last block of a stack strides).
"""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from models.mobile_backbones import HEAD_FILTERS, MOBILENETV2, STEM_FILTERS, Stage

#: filters, blocks and stride of the four stacks of ResNet50V2
RESNET50V2 = ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1))


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU6(inplace=True)] if relu else []))


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expansion, depthwise convolution, projection, residual sum where the sizes agree."""

    def __init__(self, inputs: int, stage: Stage, stride: int) -> None:
        super().__init__()
        hidden = stage.expand * inputs
        expand = [_convolution(inputs, hidden, 1)] if stage.expand != 1 else []
        self.body = nn.Sequential(
            *expand,
            _convolution(hidden, hidden, stage.kernel, stride, groups=hidden),
            _convolution(hidden, stage.filters, 1, relu=False),
        )
        self.adds = stride == 1 and inputs == stage.filters

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, c, y, x) -> (batch, filters, y', x')."""
        return x + self.body(x) if self.adds else self.body(x)


def mobilenetv2() -> tuple[nn.Module, int]:
    """The backbone and its output channels."""
    blocks, channels = [_convolution(3, STEM_FILTERS, 3, 2)], STEM_FILTERS
    for stage in MOBILENETV2:
        for repeat in range(stage.repeats):
            blocks.append(InvertedResidual(channels, stage, stage.stride if repeat == 0 else 1))
            channels = stage.filters
    return nn.Sequential(*blocks, _convolution(channels, HEAD_FILTERS, 1)), HEAD_FILTERS


class PreactivatedBlock(nn.Module):
    """ResNet-v2's bottleneck: normalisation and activation before each convolution."""

    def __init__(self, inputs: int, filters: int, stride: int, project: bool) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.BatchNorm2d(inputs, 1.001e-5), nn.ReLU(inplace=True))
        self.project = nn.Conv2d(inputs, 4 * filters, 1, stride) if project else None
        self.shrink = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, filters, 1, bias=False), nn.BatchNorm2d(filters, 1.001e-5), nn.ReLU(inplace=True),
            nn.Conv2d(filters, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters, 1.001e-5),
            nn.ReLU(inplace=True), nn.Conv2d(filters, 4 * filters, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, c, y, x) -> (batch, 4 * filters, y', x')."""
        active = self.first(x)
        return self.body(active) + (self.project(active) if self.project is not None else self.shrink(x))


def resnet50v2() -> tuple[nn.Module, int]:
    """The backbone and its output channels."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for filters, blocks, stride in RESNET50V2:
        for number in range(blocks):
            last = number == blocks - 1
            layers.append(PreactivatedBlock(channels, filters, stride if last else 1, project=number == 0))
            channels = 4 * filters
    return nn.Sequential(*layers, nn.BatchNorm2d(channels, 1.001e-5), nn.ReLU(inplace=True)), channels


NETWORKS: dict[str, Callable[[], tuple[nn.Module, int]]] = {"mobilenetv2": mobilenetv2, "resnet50v2": resnet50v2}


class SliceNetwork(nn.Module):
    """As `models.slice_network.slice_network`: average and maximum pooling, an embedding, one logit per target."""

    def __init__(self, backbone: str, embedding: int, targets: int, dropout: float) -> None:
        super().__init__()
        self.backbone, channels = NETWORKS[backbone]()
        self.embedding = nn.Linear(2 * channels, embedding)
        self.dropout = nn.Dropout(dropout)
        self.logits = nn.Linear(embedding, targets)
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Images (batch, 3, y, x) in [0, 1] -> logits (batch, targets), embedding (batch, d)."""
        features = self.backbone((images - self.mean) / self.std)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3))], dim=1)
        embedding = functional.relu(self.embedding(pooled))
        return self.logits(self.dropout(embedding)), embedding


def weighted_logistic_loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The loss of `models.slice_network`, averaged over the batch."""
    return (weight * (functional.softplus(logits) - truth * logits)).sum(1).mean()
