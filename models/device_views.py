"""Views finished on the training device: the loader sends int16 HU, the device jitters, adds noise and windows.

A slice of nine float32 channels of 384 x 480 pixels has 6.6 MB, its HU 1.1 MB. The loader's threads send a batch and
start its arithmetic while the network trains on an earlier one. Equal to `models.slice_views.SliceViews.view` within
1e-5 (tested). On a CPU the loader computes the views itself: nothing is copied there, and a graph would compete with
the network for its cores.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from features.slices25d import OFFSETS
from features.windows import WINDOWS
from models.slice_views import AIR_HU, Augmentation, hole_box, noise_pool, noise_start
from models.trainable_windows import HU_UNIT
from pipeline.settings import ModelsSettings


class DeviceViews:
    """Finishes batches of HU on the device of the Keras backend.

    Args:
        settings: Input size and windows.
    """

    def __init__(self, settings: ModelsSettings) -> None:
        self._settings = settings
        self._shape = (settings.height, settings.width)
        self._pool = ops.convert_to_tensor(noise_pool())
        self._finish = _compiled(self._finish_batch)

    def __call__(self, hu: np.ndarray, augmentations: Sequence[Augmentation]) -> Any:
        """Send a batch to the device and finish it there, without waiting for the result.

        Args:
            hu: int16 (batch, y, x, neighbours), from `SliceViews.hu` with the same augmentations.
            augmentations: One per view.

        Returns:
            Tensor like a stack of views, float32 (batch, y, x, channels).
        """
        values = [(augmentation.gain, augmentation.offset_hu, augmentation.noise_hu) for augmentation in augmentations]
        whole = [
            (noise_start(augmentation.noise_seed), *hole_box(augmentation, self._shape))
            for augmentation in augmentations
        ]
        tensors = (hu, np.array(values, np.float32), np.array(whole, np.int32))
        return self._finish(*map(ops.convert_to_tensor, tensors), self._pool)

    def _finish_batch(self, hu: Any, values: Any, whole: Any, pool: Any) -> Any:
        """Compute one batch.

        Args:
            hu: int16 (batch, y, x, neighbours).
            values: float32 (batch, 3): gain, offset in HU, standard deviation of the noise in HU.
            whole: int32 (batch, 5): start of the noise in the pool; top, left, bottom and right of the hole.
            pool: Standard normal numbers.
        """
        height, width = self._shape
        gain, offset, noise_hu = (ops.reshape(values[:, column], (-1, 1, 1, 1)) for column in range(3))
        start, top, left, bottom, right = (ops.reshape(whole[:, column], (-1, 1, 1, 1)) for column in range(5))
        count = hu.shape[-1]
        place = ops.reshape(ops.arange(height * width * count, dtype="int32"), (1, height, width, count))
        noise = ops.take(pool, (start + place) % pool.shape[0])
        jittered = ops.cast(hu, "float32") * gain + offset + noise_hu * noise
        row = ops.reshape(ops.arange(height, dtype="int32"), (1, height, 1, 1))
        column = ops.reshape(ops.arange(width, dtype="int32"), (1, 1, width, 1))
        in_hole = (row >= top) & (row < bottom) & (column >= left) & (column < right)
        jittered = ops.where(in_hole, float(AIR_HU), jittered)
        jittered = ops.repeat(jittered, len(OFFSETS) // count, axis=-1)
        if self._settings.trainable_windows:
            return jittered / HU_UNIT
        windows = [
            ops.clip((jittered - (level - width_hu / 2)) / width_hu, 0.0, 1.0)
            for level, width_hu in (WINDOWS[name] for name in self._settings.windows)
        ]
        return ops.reshape(ops.stack(windows, axis=-1), (-1, height, width, len(OFFSETS) * len(windows)))


def to_device(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Copy arrays to the device; a loader's thread waits for the copies, the training does not."""
    return {name: ops.convert_to_tensor(values) for name, values in arrays.items()}


def _compiled(function: Callable) -> Callable:
    """Compile a function of tensors for the backend; PyTorch runs its operations one by one."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow

        return tensorflow.function(function)
    if keras.backend.backend() == "jax":
        import jax

        return jax.jit(function)
    return function
