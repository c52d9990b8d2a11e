"""Occlusion maps: how much a logit falls when a square of the input is covered.

Zeiler and Fergus 2014, Visualizing and Understanding Convolutional Networks (arXiv 1311.2901). A square is replaced by
its own mean, channel by channel, so that it has neither structure nor contrast to its surroundings. Only forward
passes are needed, about sixty per slice, and the resolution of the maps is that of the squares, which is finer than
the last feature map.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.feature_grid import FeatureGrid
from models.slice_targets import TARGETS
from pipeline.settings import ModelsSettings

#: Wider than a main pulmonary artery (18-22 mm), so that a square covers a clot together with its vessel.
SQUARE_MM = 33.0
#: Side of the square as a fraction of the input's height, if the spacing of the input is unknown.
SQUARE_SHARE = 0.2
BATCH = 32


@dataclass(frozen=True)
class OcclusionMaps:
    """Computes occlusion maps of images.

    Attributes:
        logits: Function from images (n, y, x, channels) float32 to logits (n, all targets).
        targets: Names of the targets, in the order of the maps.
        size: (y, x) of the input in pixels.
        square: Side of the square in pixels.
        step: Distance between neighbouring squares in pixels.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    targets: tuple[str, ...]
    size: tuple[int, int]
    square: int
    step: int

    @property
    def grid(self) -> FeatureGrid:
        """Positions of the squares' centres on the input."""
        y_first, x_first = (float(self._centres(size)[0]) for size in self.size)
        return FeatureGrid((float(self.step), float(self.step)), (y_first, x_first))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the fall of each target's logit, float32 (n, targets, y', x'), for images (n, y, x, channels)."""
        return np.stack([self._map(image) for image in np.asarray(images, np.float32)])

    def _map(self, image: np.ndarray) -> np.ndarray:
        indices = [TARGETS.index(name) for name in self.targets]
        whole = self.logits(image[None])[:, indices]
        covered = np.concatenate([self.logits(batch)[:, indices] for batch in self._covered(image)])
        shape = [len(self._centres(size)) for size in self.size]
        return (whole - covered).T.reshape(-1, *shape).astype(np.float32)

    def _centres(self, size: int) -> np.ndarray:
        """Return evenly spaced centres from edge to edge, with the same overhang at both ends."""
        count = -(-size // self.step)
        return (size - 1) / 2 + (np.arange(count) - (count - 1) / 2) * self.step

    def _covered(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """Yield batches of copies of the image, each with another square covered, row by row."""
        rows, columns = ([self._span(centre, size) for centre in self._centres(size)] for size in self.size)
        squares = [(row, column) for row in rows for column in columns]
        for start in range(0, len(squares), BATCH):
            batch = np.repeat(image[None], len(squares[start : start + BATCH]), axis=0)
            for copy, square in zip(batch, squares[start : start + BATCH], strict=True):
                copy[square] = copy[square].mean(axis=(0, 1))
            yield batch

    def _span(self, centre: float, size: int) -> slice:
        low = round(centre - (self.square - 1) / 2)
        return slice(max(low, 0), max(min(low + self.square, size), 1))


def occlusion_maps(
    logits: Callable[[np.ndarray], np.ndarray], recipe: ModelsSettings, targets: tuple[str, ...], fineness: float = 1.5
) -> OcclusionMaps:
    """Make occlusion maps with squares of SQUARE_MM.

    Args:
        logits: Function from images to the logits of a network.
        recipe: Settings of the network.
        targets: Names from `models.slice_targets.TARGETS`.
        fineness: Steps per side of a square; the number of forward passes is proportional to its square.
    """
    side = SQUARE_MM / recipe.pixel_mm if recipe.pixel_mm else SQUARE_SHARE * recipe.height
    square = max(2, round(side))
    return OcclusionMaps(logits, targets, (recipe.height, recipe.width), square, max(1, round(square / fineness)))
