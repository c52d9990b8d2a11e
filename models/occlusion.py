"""What does the network lose when a place is covered? Maps by occlusion (Zeiler and Fergus 2014, arXiv 1311.2901).

A square of the input is replaced by its own mean, channel by channel, so that it shows nothing and stands out
from nothing; the fall of the logit is the square's worth. Only forward passes are needed, some sixty a slice,
and the maps are as fine as the squares are, not as coarse as the last feature map.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from models.feature_grid import FeatureGrid
from models.slice_targets import TARGETS
from pipeline.settings import ModelsSettings

#: Wider than a main pulmonary artery (18-22 mm), so that a clot and its vessel vanish together.
SQUARE_MM = 33.0
#: Where the spacing of the input is unknown: the square's side as a share of the input's height.
SQUARE_SHARE = 0.2
BATCH = 32


@dataclass(frozen=True)
class OcclusionMaps:
    """Images to maps, by covering square after square.

    Attributes:
        logits: images (n, y, x, channels) float32 -> logits (n, all targets).
        targets: names, in the order of the maps.
        size: (y, x) of the input, pixels.
        square: side of the square, pixels.
        step: distance of neighbouring squares, pixels.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    targets: tuple[str, ...]
    size: tuple[int, int]
    square: int
    step: int

    @property
    def grid(self) -> FeatureGrid:
        """Where the squares' centres lie on the input."""
        first = [float(self._centres(size)[0]) for size in self.size]
        return FeatureGrid((float(self.step),) * 2, tuple(first))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Fall of each target's logit: images (n, y, x, channels) -> float32 (n, targets, y', x')."""
        return np.stack([self._map(image) for image in np.asarray(images, np.float32)])

    def _map(self, image: np.ndarray) -> np.ndarray:
        indices = [TARGETS.index(name) for name in self.targets]
        whole = self.logits(image[None])[:, indices]
        covered = np.concatenate([self.logits(batch)[:, indices] for batch in self._covered(image)])
        shape = [len(self._centres(size)) for size in self.size]
        return (whole - covered).T.reshape(-1, *shape).astype(np.float32)

    def _centres(self, size: int) -> np.ndarray:
        """Evenly, from edge to edge, the same overhang at both ends."""
        count = -(-size // self.step)
        return (size - 1) / 2 + (np.arange(count) - (count - 1) / 2) * self.step

    def _covered(self, image: np.ndarray) -> Iterator[np.ndarray]:
        """The image with each square covered, row by row, in batches."""
        rows, columns = ([self._span(each, size) for each in self._centres(size)] for size in self.size)
        places = [(row, column) for row in rows for column in columns]
        for start in range(0, len(places), BATCH):
            batch = np.repeat(image[None], len(places[start : start + BATCH]), axis=0)
            for each, place in zip(batch, places[start : start + BATCH], strict=True):
                each[place] = each[place].mean(axis=(0, 1))
            yield batch

    def _span(self, centre: float, size: int) -> slice:
        low = round(centre - (self.square - 1) / 2)
        return slice(max(low, 0), max(min(low + self.square, size), 1))


def occlusion_maps(
    logits: Callable[[np.ndarray], np.ndarray], recipe: ModelsSettings, targets: tuple[str, ...], fineness: float = 1.5
) -> OcclusionMaps:
    """Maps with squares of SQUARE_MM.

    Args:
        logits: of a network.
        recipe: its settings.
        targets: names out of `models.slice_targets.TARGETS`.
        fineness: squares a side of a square; the passes grow with its square.
    """
    side = SQUARE_MM / recipe.pixel_mm if recipe.pixel_mm else SQUARE_SHARE * recipe.height
    square = max(2, round(side))
    return OcclusionMaps(logits, targets, (recipe.height, recipe.width), square, max(1, round(square / fineness)))
