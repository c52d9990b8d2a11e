"""Positions of a map's cells on a network's input: spacing and first centre, in input pixels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureGrid:
    """Cell (i, j) is centred on the input pixel (first[0] + stride[0] * i, first[1] + stride[1] * j).

    Attributes:
        stride: Distance between neighbouring cells, (y, x) in input pixels.
        first: Centre of cell (0, 0), (y, x) in input pixels; the centre of a pixel has integer coordinates.
    """

    stride: tuple[float, float] = (1.0, 1.0)
    first: tuple[float, float] = (0.0, 0.0)

    def cells_to_input(self) -> np.ndarray:
        """Return the affine map (2, 3) from cells (x, y) to input pixels (x, y), for OpenCV."""
        (y_stride, x_stride), (y_first, x_first) = self.stride, self.first
        return np.array([[x_stride, 0, x_first], [0, y_stride, y_first]])
