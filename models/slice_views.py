"""From the pixel store to what a network sees: 2.5-D stacks, moved, windowed, in [0, 1].

One affine map does the fitting of the lung box to the network's input and the augmentation, so a
slice is interpolated once.
"""

import threading
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import cv2
import numpy as np

from features.slices25d import neighbours_by_distance, stack_slice
from features.store import StoredExam, array_path, open_exam, sidecar_path
from features.windows import WINDOWS, window_channels
from models.trainable_windows import HU_UNIT
from pipeline.artifact import MANIFEST, read_manifest, verify
from pipeline.settings import ModelsSettings

AIR_HU = -1000
#: Exams that each loader thread keeps open: one holds half a megabyte or more at contest size (sidecar, decoder's
#: buffers) and takes 2 ms to open again, where a view takes 11.
OPEN_EXAMS = 64


@dataclass(frozen=True)
class Augmentation:
    """How one view differs from the stored slice; the default changes nothing.

    Attributes:
        flip: left to right (the targets' sides have to change places too).
        angle_degrees: rotation about the centre.
        scale: enlargement.
        shift: (y, x) as a share of the input's size.
        gain, offset_hu: HU become gain * HU + offset.
        noise_hu: standard deviation of added white noise.
        noise_seed: of that noise.
        hole: (y, x, side) of a rectangle set to air: its corner and the length of its sides, as shares of the
            input's height and width; side 0: none.
    """

    flip: bool = False
    angle_degrees: float = 0.0
    scale: float = 1.0
    shift: tuple[float, float] = (0.0, 0.0)
    gain: float = 1.0
    offset_hu: float = 0.0
    noise_hu: float = 0.0
    noise_seed: tuple[int, ...] = (0,)
    hole: tuple[float, float, float] = (0.0, 0.0, 0.0)


UNCHANGED = Augmentation()


def draw_augmentation(settings: ModelsSettings, *, epoch: int, draw: int) -> Augmentation:
    """The augmentation of one draw: a pure function of (seed, epoch, place in the epoch)."""
    seed = (settings.seed, epoch, draw)
    random = np.random.default_rng(seed)
    strength = settings.augmentation
    side = 0.25 if random.random() < settings.cutout * strength else 0.0
    return Augmentation(
        flip=bool(random.random() < 0.5),
        angle_degrees=strength * random.uniform(-12, 12),
        scale=float(np.exp(strength * random.uniform(-0.12, 0.12))),
        shift=tuple(strength * random.uniform(-0.06, 0.06, 2)),
        gain=1 + strength * random.uniform(-0.1, 0.1),
        offset_hu=strength * random.uniform(-20, 20),
        noise_hu=strength * random.uniform(0, 12),
        noise_seed=seed,
        hole=(*random.uniform(0, 1, 2), side),
    )


class SliceViews:
    """Views of stored slices at a network's input size.

    Args:
        store: the folder features/store, or one just filled with unlabelled exams (no manifest yet).
        settings: input size, windows and neighbour distance.
    """

    def __init__(self, store: Path, settings: ModelsSettings) -> None:
        self.settings = settings
        self.windows = tuple(WINDOWS[name] for name in settings.windows)
        self._store = store
        self._recorded = read_manifest(store)["files"] if (store / MANIFEST).is_file() else {}
        self._verified: set[str] = set()
        self._of_thread = threading.local()  # an opened exam decodes in one thread at a time

    def view(self, study: str, plane: int, change: Augmentation = UNCHANGED) -> np.ndarray:
        """One slice of a stored exam with its neighbours.

        Args:
            study: StudyInstanceUID.
            plane: index in the store.
            change: the augmentation.

        Returns:
            float32 (y, x, windows * 3) in [0, 1]; with trainable windows (y, x, 3), HU / HU_UNIT.
        """
        exam, neighbours = self._open(study)
        height, width = self.settings.height, self.settings.width
        stack = stack_slice(exam.hu, neighbours[plane])
        matrix = _fit_matrix(stack.shape[:2], (height, width), self._scale(exam), change)
        moved = cv2.warpAffine(
            stack, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
            borderValue=(AIR_HU,) * 3,
        ).astype(np.float32)  # fmt: skip
        if change is not UNCHANGED:
            _change_values(moved, change)
        if self.settings.trainable_windows:
            return moved / np.float32(HU_UNIT)
        return window_channels(moved, self.windows).reshape(height, width, -1)

    def matrix(self, study: str) -> np.ndarray:
        """Affine map (2, 3) from an exam's stored pixels (x, y) to those of its unchanged views."""
        exam, _ = self._open(study)
        size = (self.settings.height, self.settings.width)
        return _fit_matrix(exam.hu.shape[1:], size, self._scale(exam), UNCHANGED)

    def _open(self, study: str) -> tuple[StoredExam, np.ndarray]:
        if not hasattr(self._of_thread, "open"):
            self._of_thread.open = lru_cache(maxsize=OPEN_EXAMS)(self._prepare)
        return self._of_thread.open(study)

    def _scale(self, exam: StoredExam) -> float:
        """Input pixels a stored pixel; an exam whose spacing is unknown is shrunk to fit, whatever `pixel_mm` says."""
        if self.settings.pixel_mm and exam.has_spacing:
            return exam.spacing_mm[0] / self.settings.pixel_mm
        return min(self.settings.height / exam.hu.shape[1], self.settings.width / exam.hu.shape[2])

    def _prepare(self, study: str) -> tuple[StoredExam, np.ndarray]:
        if self._recorded and study not in self._verified:
            names = [array_path(self._store, study).name, sidecar_path(self._store, study).name]
            verify(self._store, names, recorded=self._recorded)
            self._verified.add(study)
        exam = open_exam(self._store, study)
        return exam, neighbours_by_distance(exam.z_mm, self.settings.neighbour_mm)


def _fit_matrix(source: tuple[int, int], target: tuple[int, int], scale: float, change: Augmentation) -> np.ndarray:
    """The affine map (2, 3) from stored pixels to input pixels; the plane's centre becomes the input's."""
    fit = scale * change.scale
    angle = np.deg2rad(change.angle_degrees)
    cosine, sine = fit * np.cos(angle), fit * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if change.flip:
        linear[:, 0] *= -1
    centre_in = np.array([(source[1] - 1) / 2, (source[0] - 1) / 2])
    centre_out = np.array(
        [(target[1] - 1) / 2 + change.shift[1] * target[1], (target[0] - 1) / 2 + change.shift[0] * target[0]]
    )
    return np.column_stack([linear, centre_out - linear @ centre_in])


@cache
def _noise_pool() -> np.ndarray:
    """Normal numbers to cut noise from: drawing them anew took a quarter of the time of a view."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def _noise(shape: tuple[int, ...], seed: tuple[int, ...]) -> np.ndarray:
    """Standard white noise, a stretch of the pool that depends on the seed alone."""
    size = int(np.prod(shape))
    pool = _noise_pool()
    start = int(np.random.default_rng(seed).integers(len(pool)))
    return pool.take(np.arange(start, start + size), mode="wrap").reshape(shape)


def _change_values(stack: np.ndarray, change: Augmentation) -> None:
    """Jitter HU, add noise and cut a hole, in place."""
    stack *= change.gain
    stack += change.offset_hu
    if change.noise_hu:
        stack += change.noise_hu * _noise(stack.shape, change.noise_seed)
    y, x, side = change.hole
    if side:
        height, width = stack.shape[:2]
        top, left = int(y * height), int(x * width)
        stack[top : top + int(side * height), left : left + int(side * width)] = AIR_HU
