"""Where the cells of a map lie on a network's input: distance and first centre, in input pixels."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class FeatureGrid:
    """Cell (i, j) sees the input about the pixel (first[0] + stride[0] * i, first[1] + stride[1] * j).

    Attributes:
        stride: distance of neighbouring cells, (y, x), input pixels.
        first: centre of cell (0, 0), (y, x), input pixels; a pixel's centre has a whole number.
    """

    stride: tuple[float, float] = (1.0, 1.0)
    first: tuple[float, float] = (0.0, 0.0)

    def cells_to_input(self) -> np.ndarray:
        """Affine map (2, 3) from cells (x, y) to input pixels (x, y), as OpenCV wants it."""
        (y_stride, x_stride), (y_first, x_first) = self.stride, self.first
        return np.array([[x_stride, 0, x_first], [0, y_stride, y_first]])
