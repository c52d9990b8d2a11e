"""Generation of one exam from its target labels and seed: anatomy, clots, acquisition effects and ground truth."""

from dataclasses import dataclass, replace

import numpy as np

from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, GTE_1, LEFT, LT_1, RIGHT
from input.phantom import physics
from input.phantom import vessel_trees as vessels
from input.phantom.difficulty import Difficulty
from input.phantom.emboli import Clot, ClotPlacement, clot_tubes, visible_clot_labels, widen_arteries
from input.phantom.heart_anatomy import Heart, build_heart
from input.phantom.labels import ExamState, sample_q
from input.phantom.patient import Patient, sample_patient
from input.phantom.raster import Grid, Tubes, join, tube_coverage
from input.phantom.scene import Scene

SLAB_SLICES = 64  # slices rendered at once, to bound the memory of exams with thin slices
#: Exam labels that describe the location and the kind of the clots.
CLOT_LABELS = frozenset({CENTRAL, LEFT, RIGHT, CHRONIC, ACUTE_AND_CHRONIC})
VISIBLE_COVER = 0.4  # smallest share of clot in a voxel that counts as visible
ATTEMPTS = 40  # at placing the clots of an exam
BURDEN_ATTEMPTS = 4  # attempts that also require the target share of positive slices
CHRONIC_SHARE = (292 + 145) / 2211  # of exams with PE, by the contest's counts
STRAINED_SHARE = 0.425  # of exams with PE: RV/LV ratio >= 1
CHRONIC_CODE = 8  # added to the region code of a chronic clot in masks


@dataclass(frozen=True)
class SyntheticExam:
    """Pixels and ground truth; arrays (z, y, x), z to the head, x to the patient's left, y to the back."""

    hu: np.ndarray  # int16
    grid: Grid
    labels: frozenset[str]  # positive labels, derived from the rendered clots and the heart
    pe_present: np.ndarray  # (n,) bool
    clot: np.ndarray  # uint8: 0, or the region code, + CHRONIC_CODE when chronic
    artery: np.ndarray  # bool
    clot_area_mm2: np.ndarray  # (n,)
    clots: list[dict]
    heart: Heart
    patient: Patient
    scanner: physics.Scanner
    contrast: physics.Contrast
    fov_mm: float
    trunk_mm: float  # diameter of the pulmonary trunk


def streams(seed: int, index: int) -> dict[str, np.random.Generator]:
    """Return independent random streams of one exam, so that a change of one part leaves the others unchanged."""
    names = ("patient", "anatomy", "clots", "physics", "noise", "files", "strain")
    sequences = np.random.SeedSequence([seed, index]).spawn(len(names))
    return {name: np.random.default_rng(sequence) for name, sequence in zip(names, sequences, strict=True)}


def sample_grid(rng: np.random.Generator, patient: Patient, rows: int, slices: int) -> tuple[Grid, float]:
    """Sample field of view, slice count and slice distance of an exam, independently of its labels.

    Args:
        rng: the exam's stream for the patient.
        patient: the patient's dimensions; a larger body gets a larger field of view.
        rows: pixels per side.
        slices: mean number of slices.

    Returns:
        The voxel grid and the field of view in mm.
    """
    extent = float(np.clip(rng.normal(232, 12), 205, 262))
    count = max(8, round(slices * float(np.clip(rng.normal(1, 0.1), 0.75, 1.35))))
    step = extent / count
    top = float(rng.uniform(66, 98))
    body = 2 * (patient.scale[0] * (122 + 9.5 + 10 * patient.muscle) + patient.fat)
    fov = float(np.clip(body * rng.uniform(0.98, 1.16), 320, 380))
    pixel = fov / rows
    axis = (np.arange(rows) - (rows - 1) / 2) * pixel
    return Grid(axis, axis + float(rng.normal(0, 4)), top - extent + step * (np.arange(count) + 0.5), step), fov


def generate_exam(
    state: ExamState, difficulty: Difficulty, *, seed: int, index: int, rows: int, slices: int
) -> SyntheticExam:
    """Generate one exam.

    Args:
        state: target labels.
        difficulty: parameters of the level.
        seed: seed of the contest.
        index: index of the exam in the contest.
        rows: pixels per side.
        slices: mean number of slices.

    Raises:
        RuntimeError: when no placement of clots shows the target labels.
    """
    rng = streams(seed, index)
    plan = generate_exam_plan(state, difficulty, rng, rows=rows, slices=slices)
    patient, grid, heart, arteries, clots, truth = (
        plan.patient, plan.grid, plan.heart, plan.arteries, plan.clots, plan.truth,
    )  # fmt: skip
    scene = Scene(patient, heart, widen_arteries(arteries, clots), clots, state.labels, difficulty, rng)
    hu = np.empty(grid.shape, np.int16)
    artery = np.empty(grid.shape, bool)
    for start in range(0, len(grid.z), SLAB_SLICES):
        slab = slice(start, start + SLAB_SLICES)
        hu[slab], artery[slab] = scene.render(grid.part((slab, slice(None), slice(None))))
    labels = (state.labels - CLOT_LABELS) | truth.labels
    if state.positive:
        labels = (labels - {GTE_1, LT_1}) | {GTE_1 if heart.ratio >= 1 else LT_1}
    if labels != state.labels:
        raise RuntimeError(
            f"Wrong labels: synthetic exam {index}. Expected {sorted(state.labels)}, got {sorted(labels)}."
        )
    return SyntheticExam(
        hu, grid, labels, truth.area >= difficulty.visible_mm2, truth.mask, artery, truth.area,
        [clot.as_row(arteries) for clot in clots], heart, patient, scene.scanner, scene.contrast, plan.fov_mm,
        float(2 * arteries.tubes.r0[0]),
    )  # fmt: skip


@dataclass(frozen=True)
class ExamPlan:
    """Everything of an exam except its pixels."""

    patient: Patient
    grid: Grid
    fov_mm: float
    heart: Heart
    arteries: vessels.Arteries
    clots: list[Clot]
    truth: "ClotTruth"


def generate_exam_plan(
    state: ExamState, difficulty: Difficulty, rng: dict[str, np.random.Generator], *, rows: int, slices: int
) -> ExamPlan:
    """Generate the anatomy and the clots of an exam, and therefore its labels, without its pixels.

    Args:
        state: target labels.
        difficulty: parameters of the level.
        rng: the exam's `streams`.
        rows: pixels per side.
        slices: mean number of slices.

    Raises:
        RuntimeError: when no placement of clots shows the target labels.
    """
    patient = sample_patient(
        rng["patient"], effusion_share=difficulty.effusion_share,
        opacity_share=difficulty.opacity_share,
    )  # fmt: skip
    grid, fov = sample_grid(rng["patient"], patient, rows, slices)
    heart = build_heart(patient, sample_rv_lv_ratio(state.labels, rng["anatomy"]))
    dilation = sample_dilation(state.labels, heart.ratio, difficulty, rng["strain"])
    arteries = vessels.build_arteries(patient, rng["anatomy"], twigs=difficulty.twigs, dilation=dilation)
    clots, truth = place_clots(state, arteries, grid, difficulty, rng["clots"])
    return ExamPlan(patient, grid, fov, heart, arteries, clots, truth)


def sample_rv_lv_ratio(labels: frozenset[str], rng: np.random.Generator) -> float:
    """Sample the RV/LV ratio: with PE as labelled, without PE from the mixture, so it does not reveal PE."""
    strained = float(np.clip(1.05 + rng.gamma(2.0, 0.1), 1.05, 1.6))
    normal = float(np.clip(rng.normal(0.84, 0.07), 0.68, 0.95))
    mixture = strained if rng.random() < STRAINED_SHARE else normal
    if GTE_1 in labels or LT_1 in labels:
        return strained if GTE_1 in labels else normal
    return mixture


def sample_dilation(labels: frozenset[str], ratio: float, difficulty: Difficulty, rng: np.random.Generator) -> float:
    """Sample the relative width of the pulmonary trunk: wider with right heart strain, widest in chronic disease.

    Neither reveals PE: the RV/LV ratio has the same distribution without PE, and exams without PE have pulmonary
    hypertension of another cause as often as exams with PE have chronic clots.

    Args:
        labels: positive exam labels.
        ratio: RV/LV ratio.
        difficulty: gives the largest dilation.
        rng: the exam's stream for strain.
    """
    strained, chronic = difficulty.dilation
    other_cause = rng.random() < CHRONIC_SHARE
    share = float(rng.uniform(0.4, 1.0))
    has_pe = bool(labels & {GTE_1, LT_1})
    is_chronic = bool(labels & {CHRONIC, ACUTE_AND_CHRONIC}) if has_pe else other_cause
    return 1 + share * ((chronic if is_chronic else strained if ratio >= 1 else 1.0) - 1)


@dataclass(frozen=True)
class ClotTruth:
    """Ground truth of the clots on the exam's grid."""

    mask: np.ndarray  # uint8 (z, y, x)
    area: np.ndarray  # (n,) visible clot area per slice, mm2
    labels: frozenset[str]


def place_clots(
    state: ExamState, arteries: vessels.Arteries, grid: Grid, difficulty: Difficulty, rng: np.random.Generator,
    lumen: np.ndarray | None = None,
) -> tuple[list[Clot], ClotTruth]:  # fmt: skip
    """Place clots until those visible on the grid match the labels, and approximately the sampled q.

    On coarse grids thin clots vanish by partial volume. Every attempt therefore starts from wider arteries than the
    previous one, and corrects its target for q by the miss of the previous one.

    Args:
        state: target labels.
        arteries: the arterial tree.
        grid: the exam's grid.
        difficulty: parameters of the level.
        rng: the exam's stream for clots.
        lumen: (z, y, x), 0-1: share of each voxel that may become clot; None: all.

    Raises:
        RuntimeError: when no placement shows the target labels.
    """
    if not state.positive:
        return [], ClotTruth(np.zeros(grid.shape, np.uint8), np.zeros(len(grid.z)), frozenset())
    expected = state.labels & CLOT_LABELS
    q = sample_q(state.quartile, difficulty, rng)
    target = q
    for attempt in range(ATTEMPTS):
        easier = replace(difficulty, clot_artery_mm=_scaled_range(difficulty.clot_artery_mm, 0.15 * attempt))
        clots = ClotPlacement(arteries, grid.z, grid.step, easier, rng).place(state.labels, target)
        truth = clot_truth(clots, widen_arteries(arteries, clots), grid, difficulty, lumen)
        share = float(np.mean(truth.area >= difficulty.visible_mm2))
        burden_ok = abs(share - q) <= 0.25 * q + 1 / len(grid.z) or attempt >= BURDEN_ATTEMPTS
        if truth.labels == expected and burden_ok:
            return clots, truth
        target = min(0.9, target * float(np.clip(q / max(share, 1e-3), 0.7, 1.5)))
    raise RuntimeError(
        f"Clot placement failed after {ATTEMPTS} attempts. Expected {sorted(expected)}, last got "
        f"{sorted(truth.labels)}."
    )


def _scaled_range(bounds: tuple[float, float], by: float) -> tuple[float, float]:
    """Widen a range of artery diameters (mm) by a relative amount; the lower bound is at most 9 mm."""
    return min(bounds[0] * (1 + by), 9.0), bounds[1] * (1 + by)


def clot_truth(
    clots: list[Clot], arteries: vessels.Arteries, grid: Grid, difficulty: Difficulty, lumen: np.ndarray | None = None
) -> ClotTruth:
    """Rasterize the clots; returns their mask, visible area per slice, and the labels that follow.

    Args:
        clots: the clots of an exam.
        arteries: the arterial tree, widened by the clots.
        grid: the exam's grid.
        difficulty: gives the smallest visible area.
        lumen: as in `place_clots`.
    """
    mask = np.zeros(grid.shape, np.uint8)
    total = np.zeros(len(grid.z))
    areas: dict[tuple[int, bool], np.ndarray] = {}
    for chronic in (False, True):
        for region in range(1, 6):
            tubes = _clot_tubes_in(clots, arteries, region, chronic)
            if tubes is None:
                continue
            box, cover = tube_coverage(grid, tubes)
            if lumen is not None:
                cover = cover * lumen[box]
            # A voxel with only a small share of clot shows none, however many such voxels there are.
            visible = np.where(cover > VISIBLE_COVER, cover, np.float32(0))
            area = np.zeros(len(grid.z))
            area[box[0]] = visible.sum(axis=(1, 2)) * grid.pixel**2
            areas[region, chronic] = area
            total += area
            view = mask[box]
            view[visible > 0] = region + CHRONIC_CODE * chronic
    return ClotTruth(mask, total, visible_clot_labels(areas, difficulty.visible_mm2))


def _clot_tubes_in(clots: list[Clot], arteries: vessels.Arteries, region: int, chronic: bool) -> Tubes | None:
    """Return the tubes of the acute or chronic clots within one region; None without any."""
    parts = []
    for clot in clots:
        if clot.chronic == chronic:
            in_region = arteries.region[arteries.segment[clot.pieces]] == region
            if in_region.any():
                tubes = clot_tubes(clot, arteries)
                parts.append(tubes.take(np.tile(in_region, len(tubes) // len(in_region))))
    return join(parts) if parts else None
