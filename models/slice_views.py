"""Network inputs from the pixel store: 2.5-D stacks, transformed, windowed, in [0, 1].

A single affine map fits the lung box to the network's input and applies the geometric augmentation, so every slice is
interpolated only once.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from pathlib import Path

import cv2
import numpy as np

from features.exam_measurements import enhancement_hu
from features.slices25d import OFFSETS, neighbours_by_distance, stack_slice
from features.store import StoredExam, open_exam, store_table
from features.windows import WINDOWS, window_channels
from input.contest import STUDY
from models.clot_targets import MAP_CHANNELS, cell_targets, map_shape
from models.trainable_windows import HU_UNIT
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

AIR_HU = -1000
#: Exams kept open per loader thread: all training exams of a small contest. At contest size an open exam takes half a
#: megabyte or more (sidecar and decoder buffers), opening it again takes 2 ms, and one view takes 11 ms.
OPEN_EXAMS = 160
#: The settings that unchanged views depend on; networks that share them can share views.
VIEW_SETTINGS = ("height", "width", "windows", "trainable_windows", "pixel_mm", "neighbour_mm", "artery_hu")
#: Those that decide which part of an exam a view shows.
GRID_SETTINGS = ("height", "width", "pixel_mm")
#: Limits of the factor that gives the pulmonary arteries `artery_hu`: beyond, the measurement is more likely wrong.
SCALE_LIMITS = (0.6, 3.0)


@dataclass(frozen=True)
class Augmentation:
    """Parameters of one augmented view; the defaults change nothing.

    Attributes:
        flip: Flip left to right (targets of the two sides must be swapped too).
        angle_degrees: Rotation about the centre.
        scale: Magnification.
        shift: (y, x) as a fraction of the input size.
        gain: Factor of the HU values.
        offset_hu: Added after the gain: gain * HU + offset.
        noise_hu: Standard deviation of added white noise.
        noise_seed: Seed of that noise.
        hole: (y, x, side) of a rectangle set to air: corner and side as fractions of the input's height and width;
            side 0 for no hole.
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
#: A view of a stored slice: StudyInstanceUID, index of the slice in the store, augmentation.
View = tuple[str, int, Augmentation]


def draw_augmentation(settings: ModelsSettings, *, epoch: int, key: int, repeat: int) -> Augmentation:
    """Draw the augmentation of one sample: a pure function of the seed and the arguments.

    Args:
        settings: Training recipe.
        epoch: Number of the epoch, from 0.
        key: Number of the slice from `models.sampling.slice_keys`.
        repeat: How often the epoch has drawn the slice before.
    """
    seed = (settings.seed, epoch, int(key), int(repeat))
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
    """Views of stored slices at the input size of a network.

    Args:
        store: The folder features/store, or one just filled with unlabelled exams (no manifest yet).
        settings: Input size, windows and neighbour distance.
        masks: StudyInstanceUID -> clot codes (z, y, x) on the store's grid, for training with mask supervision.
        enhancement: StudyInstanceUID -> HU of the pulmonary arteries, NaN where unknown, for views with `artery_hu`;
            None: from the store's table.
    """

    def __init__(
        self, store: Path, settings: ModelsSettings, masks: Mapping[str, np.ndarray] | None = None,
        enhancement: Mapping[str, float] | None = None,
    ) -> None:  # fmt: skip
        self.settings = settings
        self.windows = tuple(WINDOWS[name] for name in settings.windows)
        self._store = store
        self._masks = masks or {}
        self._measured_enhancement = enhancement
        self._of_thread = threading.local()  # an open exam may decode in one thread at a time only

    def view(self, study: str, plane: int, augmentation: Augmentation = UNCHANGED) -> np.ndarray:
        """Return one slice of a stored exam with its neighbours.

        Args:
            study: StudyInstanceUID.
            plane: Index of the slice in the store.
            augmentation: How the view differs from the stored slice.

        Returns:
            float32 (y, x, windows * 3) in [0, 1]; with trainable windows (y, x, 3), HU / HU_UNIT.

        Raises:
            UserError: The stored exam differs from its manifest.
        """
        values = self.hu(study, plane, augmentation).astype(np.float32)
        if augmentation is not UNCHANGED:
            _augment_values(values, augmentation)
        if self.settings.trainable_windows:
            return np.repeat(values / np.float32(HU_UNIT), len(OFFSETS) // values.shape[2], axis=2)
        channels = window_channels(values, self.windows)
        return np.repeat(channels, len(OFFSETS) // values.shape[2], axis=2).reshape(*values.shape[:2], -1)

    def hu(self, study: str, plane: int, augmentation: Augmentation = UNCHANGED) -> np.ndarray:
        """Return the HU of a view: transformed, scaled for `artery_hu`, without augmentation, int16 (y, x, neighbours).

        One channel stands for all neighbours where `neighbour_mm` is 0: they are the slice itself.

        Raises:
            UserError: The stored exam differs from its manifest.
        """
        exam, neighbours = self._open(study)
        planes = neighbours[plane] if self.settings.neighbour_mm else [plane]
        transformed = cv2.warpAffine(
            stack_slice(exam.hu, planes), self._matrix(exam, augmentation),
            (self.settings.width, self.settings.height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
            borderValue=(AIR_HU,) * len(planes),
        )  # fmt: skip
        factor = self._blood_factor(study)
        if factor != 1:
            np.copyto(transformed, np.rint(transformed * factor).astype(np.int16), where=transformed > 0)
        return transformed.reshape(self.settings.height, self.settings.width, len(planes))

    def blood_factors(self, studies: Iterable[str]) -> np.ndarray:
        """Return the factor of HU above 0 in the views of exams, float32 (exams,); 1 where nothing is scaled."""
        return np.array([self._blood_factor(study) for study in studies], np.float32)

    def matrix(self, study: str) -> np.ndarray:
        """Return the affine map (2, 3) from an exam's stored pixels (x, y) to the pixels of its unchanged views."""
        exam, _ = self._open(study)
        return self._matrix(exam, UNCHANGED)

    def map_targets(self, study: str, plane: int, augmentation: Augmentation = UNCHANGED) -> np.ndarray:
        """Return the targets of the clot map for the same view: float32 (rows, columns, 2 * MAP_CHANNELS).

        Targets and weights as in `models.clot_targets.cell_targets`; all weights are 0 where the exam has no mask.
        """
        shape = map_shape(self.settings.height, self.settings.width)
        if study not in self._masks:
            return np.zeros((*shape, 2 * MAP_CHANNELS), np.float32)
        exam, _ = self._open(study)
        size = (self.settings.height, self.settings.width)
        return cell_targets(self._masks[study][plane], self._matrix(exam, augmentation), size)

    def has_mask(self, study: str) -> bool:
        """Whether the clot map of an exam is supervised."""
        return study in self._masks

    @cached_property
    def _enhancement(self) -> Mapping[str, float]:
        """Read when the first view needs it: a temporary store has no table, and needs none for grids alone."""
        return stored_enhancement(self._store) if self._measured_enhancement is None else self._measured_enhancement

    def _blood_factor(self, study: str) -> np.float32:
        if not self.settings.artery_hu or np.isnan(self._enhancement[study]):
            return np.float32(1)
        return np.float32(np.clip(self.settings.artery_hu / max(self._enhancement[study], 1.0), *SCALE_LIMITS))

    def _matrix(self, exam: StoredExam, augmentation: Augmentation) -> np.ndarray:
        centre = ((exam.hu.shape[1] - 1) / 2, exam.middle_column)
        size = (self.settings.height, self.settings.width)
        return _fit_matrix(centre, size, self._scale(exam), augmentation)

    def _open(self, study: str) -> tuple[StoredExam, np.ndarray]:
        if not hasattr(self._of_thread, "open"):
            self._of_thread.open = lru_cache(maxsize=OPEN_EXAMS)(self._prepare)
        return self._of_thread.open(study)

    def _scale(self, exam: StoredExam) -> float:
        """Return input pixels per stored pixel; exams of unknown spacing are shrunk to fit, ignoring `pixel_mm`."""
        if self.settings.pixel_mm and exam.has_spacing:
            return exam.spacing_mm[0] / self.settings.pixel_mm
        return min(self.settings.height / exam.hu.shape[1], self.settings.width / exam.hu.shape[2])

    def _prepare(self, study: str) -> tuple[StoredExam, np.ndarray]:
        exam = open_exam(self._store, study)
        return exam, neighbours_by_distance(exam.z_mm, self.settings.neighbour_mm)


def stored_enhancement(store: Path) -> dict[str, float]:
    """Return study -> HU of its pulmonary arteries as measured, NaN where unknown, of every exam of a store.

    Raises:
        UserError: The store has no measurements, or they differ from its manifest.
    """
    exams = store_table(store, "exams")
    if exams is None:
        raise UserError(
            f"Exam table missing: {paths.shown(store)}. Expected exams.parquet, from which models.artery_hu reads the "
            "attenuation of the arteries. Rebuild the store: ./run.sh --from features --force"
        )
    return {exam[STUDY]: enhancement_hu(exam) for exam in exams.to_dict("records")}


def _fit_matrix(
    centre: tuple[float, float], target: tuple[int, int], scale: float, augmentation: Augmentation
) -> np.ndarray:
    """Return the affine map (2, 3) from stored to input pixels; it maps `centre` (y, x) to the input's centre.

    The centre is the middle of the lung box's height and the patient's midline, so that the two halves of the input
    are the two sides of the patient.
    """
    fit = scale * augmentation.scale
    angle = np.deg2rad(augmentation.angle_degrees)
    cosine, sine = fit * np.cos(angle), fit * np.sin(angle)
    linear = np.array([[cosine, -sine], [sine, cosine]])
    if augmentation.flip:
        linear[:, 0] *= -1
    y_shift, x_shift = augmentation.shift
    centre_in = np.array([centre[1], centre[0]])
    centre_out = np.array([(target[1] - 1) / 2 + x_shift * target[1], (target[0] - 1) / 2 + y_shift * target[0]])
    return np.column_stack([linear, centre_out - linear @ centre_in])


@cache
def noise_pool() -> np.ndarray:
    """Return a pool of standard normal numbers: drawing new ones took a quarter of the time of a view."""
    return np.random.default_rng(0).standard_normal(1 << 20, dtype=np.float32)


def noise_start(seed: tuple[int, ...]) -> int:
    """Return where the noise of a view begins in the pool; it continues at the pool's start."""
    return int(np.random.default_rng(seed).integers(len(noise_pool())))


def hole_box(augmentation: Augmentation, shape: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (top, left, bottom, right) of the hole of a view of `shape` (y, x) in pixels; empty without a hole."""
    (y, x, side), (height, width) = augmentation.hole, shape
    top, left = int(y * height), int(x * width)
    return top, left, top + int(side * height), left + int(side * width)


def _noise(shape: tuple[int, ...], seed: tuple[int, ...]) -> np.ndarray:
    """Return standard white noise: a section of the pool that depends on the seed alone."""
    pool, start, count = noise_pool(), noise_start(seed), int(np.prod(shape))
    section = pool[start : start + count]
    if len(section) < count:
        section = np.concatenate([section, np.resize(pool, count - len(section))])
    return section.reshape(shape)


def _augment_values(stack: np.ndarray, augmentation: Augmentation) -> None:
    """Jitter HU, add noise and cut a hole, in place."""
    stack *= augmentation.gain
    stack += augmentation.offset_hu
    if augmentation.noise_hu:
        stack += augmentation.noise_hu * _noise(stack.shape, augmentation.noise_seed)
    height, width = stack.shape[:2]
    top, left, bottom, right = hole_box(augmentation, (height, width))
    stack[top:bottom, left:right] = AIR_HU
