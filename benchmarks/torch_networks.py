"""The slice networks in plain PyTorch, equal layer by layer to those of `models`, for benchmarks beside PyTorch.

Papers: Sandler et al. 2018, MobileNetV2 (arXiv 1801.04381); He et al. 2016, Identity Mappings in Deep Residual
Networks (arXiv 1603.05027), in the variant of keras.applications (the last block of a stack strides).
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

from models.clot_map import CELLS_PER_SLICE, PARTS, STRENGTHS, WIDTH
from models.clot_targets import CLOT, MAP_CHANNELS
from models.mobile_backbones import HEAD_FILTERS, MOBILENETV2, STEM_FILTERS, Stage
from models.slice_targets import NATURES, ON_EXAM

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
        self.stride, self.inner_channels = stride, stage.expand * inputs
        self.expand = _convolution(inputs, self.inner_channels, 1) if stage.expand != 1 else nn.Identity()
        self.body = nn.Sequential(
            _convolution(self.inner_channels, self.inner_channels, stage.kernel, stride, groups=self.inner_channels),
            _convolution(self.inner_channels, stage.filters, 1, relu=False),
        )
        self.adds = stride == 1 and inputs == stage.filters

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, c, y, x) -> (batch, filters, y', x'), and the features before the stride, (batch, hidden, y, x)."""
        inner = self.expand(x)
        outputs = self.body(inner)
        return (x + outputs if self.adds else outputs), inner


class PreactivatedBlock(nn.Module):
    """ResNet-v2's bottleneck: normalisation and activation before each convolution."""

    def __init__(self, inputs: int, filters: int, stride: int, project: bool) -> None:
        super().__init__()
        self.stride, self.inner_channels = stride, filters
        self.first = nn.Sequential(nn.BatchNorm2d(inputs, 1.001e-5), nn.ReLU(inplace=True))
        self.project = nn.Conv2d(inputs, 4 * filters, 1, stride) if project else None
        self.shrink = nn.MaxPool2d(1, stride) if stride > 1 else nn.Identity()
        self.reduce = nn.Sequential(
            nn.Conv2d(inputs, filters, 1, bias=False), nn.BatchNorm2d(filters, 1.001e-5), nn.ReLU(inplace=True)
        )
        self.body = nn.Sequential(
            nn.Conv2d(filters, filters, 3, stride, 1, bias=False), nn.BatchNorm2d(filters, 1.001e-5),
            nn.ReLU(inplace=True), nn.Conv2d(filters, 4 * filters, 1),
        )  # fmt: skip

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(batch, c, y, x) -> (batch, 4 * filters, y', x'), and features before the stride, (batch, filters, y, x)."""
        active = self.first(x)
        inner = self.reduce(active)
        return self.body(inner) + (self.project(active) if self.project is not None else self.shrink(x)), inner


class Backbone(nn.Module):
    """Layers and blocks in sequence, with the finer feature maps that the clot map reads.

    Args:
        layers: Modules; those with the attribute `inner_channels` are blocks, which also return their inner features.
        channels: Channels of the last map.

    Attributes:
        channels: Channels of the three feature maps.
    """

    def __init__(self, layers: list[nn.Module], channels: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)
        strided = [layer for layer in layers if hasattr(layer, "inner_channels") and layer.stride == 2]
        self.channels = (*(block.inner_channels for block in strided[-2:]), channels)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(batch, 3, y, x) -> the last feature maps at the strides 8 and 16, and the final one at stride 32."""
        finer = []
        for layer in self.layers:
            if not hasattr(layer, "inner_channels"):
                x = layer(x)
                continue
            x, inner = layer(x)
            if layer.stride == 2:
                finer.append(inner)
        return finer[-2], finer[-1], x


def mobilenetv2() -> Backbone:
    """Build MobileNetV2."""
    layers: list[nn.Module] = [_convolution(3, STEM_FILTERS, 3, 2)]
    channels = STEM_FILTERS
    for stage in MOBILENETV2:
        for repeat in range(stage.repeats):
            layers.append(InvertedResidual(channels, stage, stage.stride if repeat == 0 else 1))
            channels = stage.filters
    return Backbone([*layers, _convolution(channels, HEAD_FILTERS, 1)], HEAD_FILTERS)


def resnet50v2() -> Backbone:
    """Build ResNet50V2."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 7, 2, 3), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for filters, blocks, stride in RESNET50V2:
        for number in range(blocks):
            last = number == blocks - 1
            layers.append(PreactivatedBlock(channels, filters, stride if last else 1, project=number == 0))
            channels = 4 * filters
    return Backbone([*layers, nn.BatchNorm2d(channels, 1.001e-5), nn.ReLU(inplace=True)], channels)


NETWORKS: dict[str, Callable[[], Backbone]] = {"mobilenetv2": mobilenetv2, "resnet50v2": resnet50v2}


class ClotMap(nn.Module):
    """As `models.clot_map`: the logits of every cell at stride 8, and what the slice's answers read from the cells.

    Args:
        channels: Channels of the feature maps at the strides 8, 16 and 32.
        local_map: The logits read the features at stride 8 only.
    """

    def __init__(self, channels: tuple[int, ...], local_map: bool) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(nn.Conv2d(inputs, WIDTH, 1) for inputs in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH, bias=False), nn.Conv2d(WIDTH, WIDTH, 1, bias=False),
            nn.BatchNorm2d(WIDTH, 1e-3), nn.ReLU(inplace=True),
        )  # fmt: skip
        self.local = None
        if local_map:
            self.local = nn.Sequential(
                nn.Conv2d(channels[0], WIDTH, 1, bias=False), nn.BatchNorm2d(WIDTH, 1e-3), nn.ReLU(inplace=True)
            )
        self.map = nn.Conv2d(WIDTH if local_map else WIDTH + 2, MAP_CHANNELS, 1)
        self.side = nn.Linear(WIDTH + 2 + STRENGTHS, 1)

    def forward(
        self, stride8: torch.Tensor, stride16: torch.Tensor, stride32: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Read three feature maps (batch, c, y, x).

        Returns:
            Logits of the cells (batch, MAP_CHANNELS, y, x); logits of the two sides, (batch, 2); the summary of the
            cells, (batch, SUMMARY); and the strength of the clot in all parts, (batch, len(PARTS) * STRENGTHS).
        """
        lateral8, lateral16, lateral32 = self.laterals
        merged = functional.relu(lateral16(stride16) + functional.interpolate(lateral32(stride32), scale_factor=2.0))
        merged = functional.relu(lateral8(stride8) + functional.interpolate(merged, scale_factor=2.0))
        placed = _with_position(self.smooth(merged))
        logits = self.map(placed if self.local is None else self.local(stride8))
        clot = logits[:, CLOT]
        described = torch.cat([placed, logits], 1)
        middle, columns = clot.shape[2] // 2, clot.shape[2]
        parts = (slice(0, columns), slice(middle, columns), slice(0, columns - middle))
        summaries = torch.stack([_attend(described[..., part], clot[..., part]) for part in parts], 1)
        halves = torch.cat([summaries[:, 1:, : WIDTH + 2], summaries[:, 1:, -STRENGTHS:]], 2)
        sides = self.side(halves).flatten(1)
        return logits, sides, summaries[:, 0], summaries[:, :, -STRENGTHS:].flatten(1)


#: Length of the summary of the cells: their features, position, logits, and the strength of the clot.
SUMMARY = WIDTH + 2 + MAP_CHANNELS + STRENGTHS


def _with_position(cells: torch.Tensor) -> torch.Tensor:
    """As `models.clot_map.CellPosition`: (batch, c, y, x) -> (batch, c + 2, y, x)."""
    rows, columns = cells.shape[2:]
    across = (torch.arange(columns, device=cells.device) - (columns - 1) / 2).abs() * 2 / columns
    down = torch.arange(rows, device=cells.device) / max(rows - 1, 1)
    position = torch.stack([across.expand(rows, columns), down[:, None].expand(rows, columns)])
    return torch.cat([cells, position.to(cells.dtype).expand(len(cells), -1, -1, -1)], 1)


def _attend(cells: torch.Tensor, clot: torch.Tensor) -> torch.Tensor:
    """As a part of `models.clot_map.ClotAttention`: cells (batch, c, y, x), logits (batch, y, x) -> (batch, c + 2)."""
    features, logits = cells.flatten(2), clot.flatten(1)
    attended = (features * torch.softmax(logits, 1)[:, None]).sum(2)
    log_mean = torch.logsumexp(logits, 1, keepdim=True) - math.log(logits.shape[1])
    return torch.cat([attended, log_mean, logits.amax(1, keepdim=True)], 1)


class SliceNetwork(nn.Module):
    """As `models.slice_network.slice_network`.

    Args:
        backbone: A key of NETWORKS.
        embedding: Length of the embedding's features.
        dropout: Share of the features that training drops.
        local_map: As in `slice_network`.
    """

    def __init__(self, backbone: str, embedding: int, dropout: float, *, local_map: bool = False) -> None:
        super().__init__()
        self.backbone = NETWORKS[backbone]()
        self.clot_map = ClotMap(self.backbone.channels, local_map)
        self.embedding = nn.Linear(2 * self.backbone.channels[-1] + SUMMARY, embedding)
        self.dropout = nn.Dropout(dropout)
        self.slice_answer = nn.Linear(embedding + len(PARTS) * STRENGTHS, 1)
        self.natures = nn.Linear(SUMMARY, len(NATURES))
        self.on_exam = nn.Linear(embedding, len(ON_EXAM))
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predict images (batch, 3, y, x) in [0, 1].

        Returns:
            Logits (batch, targets), embedding (batch, d), map (batch, MAP_CHANNELS, y / 8, x / 8) and evidence
            (batch, len(PARTS)), as the outputs of `slice_network`.
        """
        stride8, stride16, features = self.backbone((images - self.mean) / self.std)
        cells, sides, summary, strengths = self.clot_map(stride8, stride16, features)
        pooled = torch.cat([features.mean((2, 3)), features.amax((2, 3)), summary], dim=1)
        embedding = functional.relu(self.embedding(pooled))
        dropped = self.dropout(embedding)
        answers = [self.slice_answer(torch.cat([dropped, strengths], 1)), sides]
        answers += [self.natures(summary), self.on_exam(dropped)]
        return torch.cat(answers, 1), torch.cat([embedding, strengths], 1), cells, _evidence(cells[:, CLOT])


def _evidence(clot: torch.Tensor) -> torch.Tensor:
    """As `models.clot_map.ClotEvidence`: (batch, y, x) -> (batch, len(PARTS))."""
    middle, columns = clot.shape[2] // 2, clot.shape[2]
    parts = (clot, clot[..., middle:], clot[..., : columns - middle])
    pooled = [torch.logsumexp(part.flatten(1), 1, keepdim=True) for part in parts]
    return torch.cat(pooled, 1) - math.log(CELLS_PER_SLICE)


def weighted_logistic_loss(logits: torch.Tensor, truth: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The loss of `models.slice_network`, averaged over the batch."""
    return (weight * (functional.softplus(logits) - truth * logits)).sum(1).mean()
