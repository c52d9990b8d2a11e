"""One exam from its state and seed: anatomy, clots, physics - and the truth that comes with it."""

from dataclasses import dataclass, replace

import numpy as np

from input.contest import ACUTE_AND_CHRONIC, CENTRAL, CHRONIC, GTE_1, LEFT, LT_1, RIGHT
from input.phantom import physics
from input.phantom import vessel_trees as vessels
from input.phantom.difficulty import Difficulty
from input.phantom.emboli import Clot, Placement, clot_tubes, drawn_labels, widened
from input.phantom.heart_anatomy import Heart, draw_heart
from input.phantom.labels import ExamState, draw_q
from input.phantom.patient import Patient, draw_patient
from input.phantom.raster import Grid, Tubes, join, tube_coverage
from input.phantom.scene import Scene

SLAB_SLICES = 64  # slices drawn at once, so that thin-slice exams stay within memory
#: Exam labels that say where and of which kind the clots are.
CLOT_LABELS = frozenset({CENTRAL, LEFT, RIGHT, CHRONIC, ACUTE_AND_CHRONIC})
VISIBLE_COVER = 0.4  # share of a voxel from which its clot counts as visible
ATTEMPTS = 40  # at placing clots, before the drawing is declared impossible
CHRONIC_SHARE = (292 + 145) / 2211  # of exams with PE, by the contest's counts
PATIENCE = 4  # attempts that also ask for the drawn share of positive slices


@dataclass(frozen=True)
class DrawnExam:
    """Pixels and truth; arrays (z, y, x), z to the head, x to the patient's left, y to the back."""

    hu: np.ndarray  # int16
    grid: Grid
    on: frozenset[str]  # labels re-derived from what was drawn
    pe_present: np.ndarray  # (n,) bool
    clot: np.ndarray  # uint8: 0, or region code + 8 when chronic
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
    """Independent random streams of one exam, so that a change in one part leaves the others alone."""
    names = ("patient", "anatomy", "clots", "physics", "noise", "files", "strain")
    seeds = np.random.SeedSequence([seed, index]).spawn(len(names))
    return {name: np.random.default_rng(each) for name, each in zip(names, seeds, strict=True)}


def draw_grid(rng: np.random.Generator, patient: Patient, rows: int, slices: int) -> tuple[Grid, float]:
    """Field of view, slice count and distance of an exam; independent of its labels."""
    extent = float(np.clip(rng.normal(232, 12), 205, 262))
    count = max(8, round(slices * float(np.clip(rng.normal(1, 0.1), 0.75, 1.35))))
    step = extent / count
    top = float(rng.uniform(66, 98))
    body = 2 * (patient.scale[0] * (122 + 9.5 + 10 * patient.muscle) + patient.fat)
    fov = float(np.clip(body * rng.uniform(0.98, 1.16), 320, 380))
    pixel = fov / rows
    axis = (np.arange(rows) - (rows - 1) / 2) * pixel
    return Grid(axis, axis + float(rng.normal(0, 4)), top - extent + step * (np.arange(count) + 0.5), step), fov


def draw_exam(state: ExamState, difficulty: Difficulty, *, seed: int, index: int, rows: int, slices: int) -> DrawnExam:
    """Draw one exam.

    Args:
        state: the labels to make true.
        difficulty: the table's entry.
        seed: of the contest.
        index: of the exam in the contest.
        rows: pixels a side.
        slices: mean number of slices.

    Raises:
        RuntimeError: when no placement of clots shows the labels (a fault of the drawing).
    """
    rng = streams(seed, index)
    plan = draw_plan(state, difficulty, rng, rows=rows, slices=slices)
    patient, grid, fov, heart, arteries = plan.patient, plan.grid, plan.fov_mm, plan.heart, plan.arteries
    clots, truth = plan.clots, plan.truth
    scene = Scene(patient, heart, widened(arteries, clots), clots, state.on, difficulty, rng)
    hu = np.empty(grid.shape, np.int16)
    artery = np.empty(grid.shape, bool)
    for start in range(0, len(grid.z), SLAB_SLICES):
        slab = slice(start, start + SLAB_SLICES)
        hu[slab], artery[slab] = scene.draw(grid.part((slab, slice(None), slice(None))))
    visible = truth.area >= difficulty.visible_mm2
    on = (state.on - CLOT_LABELS) | truth.labels
    if state.positive:
        on = (on - {GTE_1, LT_1}) | {GTE_1 if heart.ratio >= 1 else LT_1}
    if on != state.on:
        raise RuntimeError(f"exam {index}: drawn labels {sorted(on)} differ from the wanted {sorted(state.on)}")
    return DrawnExam(
        hu, grid, on, visible, truth.mask, artery, truth.area, [c.as_row(arteries) for c in clots], heart, patient,
        scene.scanner, scene.contrast, fov, float(2 * arteries.tubes.r0[0]),
    )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """All of an exam but its pixels."""

    patient: Patient
    grid: Grid
    fov_mm: float
    heart: Heart
    arteries: vessels.Arteries
    clots: list[Clot]
    truth: "ClotTruth"


def draw_plan(
    state: ExamState, difficulty: Difficulty, rng: dict[str, np.random.Generator], *, rows: int, slices: int
) -> Plan:
    """Draw the anatomy and the clots of an exam, hence its labels, without its pixels; arguments of `draw_exam`.

    Args:
        state: the labels to make true.
        difficulty: the table's entry.
        rng: the exam's `streams`.
        rows: pixels a side.
        slices: mean number of slices.
    """
    patient = draw_patient(
        rng["patient"], effusion_share=difficulty.effusion_share,
        opacity_share=difficulty.opacity_share,
    )  # fmt: skip
    grid, fov = draw_grid(rng["patient"], patient, rows, slices)
    heart = draw_heart(patient, draw_ratio(state.on, rng["anatomy"]))
    dilation = draw_dilation(state.on, heart.ratio, difficulty, rng["strain"])
    arteries = vessels.draw_arteries(patient, rng["anatomy"], twigs=difficulty.twigs, dilation=dilation)
    return Plan(patient, grid, fov, heart, arteries, *place_clots(state, arteries, grid, difficulty, rng["clots"]))


def draw_ratio(on: frozenset[str], rng: np.random.Generator) -> float:
    """RV/LV ratio: as the label says; in exams without PE from the mixture of both, so it gives nothing away."""
    strained = float(np.clip(1.05 + rng.gamma(2.0, 0.1), 1.05, 1.6))
    normal = float(np.clip(rng.normal(0.84, 0.07), 0.68, 0.95))
    chance = rng.random() < 0.425
    if GTE_1 in on or LT_1 in on:
        return strained if GTE_1 in on else normal
    return strained if chance else normal


def draw_dilation(on: frozenset[str], ratio: float, difficulty: Difficulty, rng: np.random.Generator) -> float:
    """Width of the pulmonary trunk over its usual one: wider with right heart strain, widest in chronic disease.

    Both follow from what exams with and without PE have alike (some of the latter have pulmonary
    hypertension of another cause, as often as exams with PE have chronic clots), so neither gives PE away.
    """
    strained, chronic = difficulty.dilation
    other_cause = rng.random() < CHRONIC_SHARE
    share = float(rng.uniform(0.4, 1.0))
    ill = bool(on & {CHRONIC, ACUTE_AND_CHRONIC}) if on & {GTE_1, LT_1} else other_cause
    return 1 + share * ((chronic if ill else strained if ratio >= 1 else 1.0) - 1)


@dataclass(frozen=True)
class ClotTruth:
    """What the clots look like on the exam's grid."""

    mask: np.ndarray  # uint8 (z, y, x)
    area: np.ndarray  # (n,) mm2
    labels: frozenset[str]


def place_clots(
    state: ExamState, arteries: vessels.Arteries, grid: Grid, difficulty: Difficulty, rng: np.random.Generator,
    lumen: np.ndarray | None = None,
) -> tuple[list[Clot], ClotTruth]:  # fmt: skip
    """Place clots until what is visible on the grid agrees with the labels, and about with the drawn q.

    `lumen` (z, y, x), 0-1, where it is given, says which share of a voxel can be clot. On coarse grids thin
    clots vanish within their voxels: every attempt starts from wider arteries than the last, and aims at
    as many slices more as the last one fell short by.
    """
    if not state.positive:
        return [], ClotTruth(np.zeros(grid.shape, np.uint8), np.zeros(len(grid.z)), frozenset())
    wanted = state.on & CLOT_LABELS
    q = draw_q(state.quartile, difficulty, rng)
    aim = q
    for attempt in range(ATTEMPTS):
        eased = replace(difficulty, clot_artery_mm=_wider(difficulty.clot_artery_mm, 0.15 * attempt))
        clots = Placement(arteries, grid.z, grid.step, eased, rng).place(state.on, aim)
        truth = clot_truth(clots, widened(arteries, clots), grid, difficulty, lumen)
        share = float(np.mean(truth.area >= difficulty.visible_mm2))
        near = abs(share - q) <= 0.25 * q + 1 / len(grid.z) or attempt >= PATIENCE
        if truth.labels == wanted and near:
            return clots, truth
        aim = min(0.9, aim * float(np.clip(q / max(share, 1e-3), 0.7, 1.5)))
    raise RuntimeError(f"no placement of clots shows {sorted(wanted)}; last showed {sorted(truth.labels)}")


def _wider(bounds: tuple[float, float], by: float) -> tuple[float, float]:
    return min(bounds[0] * (1 + by), 9.0), bounds[1] * (1 + by)


def clot_truth(
    clots: list[Clot], arteries: vessels.Arteries, grid: Grid, difficulty: Difficulty, lumen: np.ndarray | None = None
) -> ClotTruth:
    """Mask, visible area a slice, and the labels that follow from them; `lumen` as in `place_clots`."""
    mask = np.zeros(grid.shape, np.uint8)
    total = np.zeros(len(grid.z))
    areas: dict[tuple[int, bool], np.ndarray] = {}
    for chronic in (False, True):
        for region in range(1, 6):
            tubes = _tubes_of(clots, arteries, region, chronic)
            if tubes is None:
                continue
            box, cover = tube_coverage(grid, tubes)
            if lumen is not None:
                cover = cover * lumen[box]
            # A voxel that is mostly something else shows no clot, however many such voxels there are.
            seen = np.where(cover > VISIBLE_COVER, cover, np.float32(0))
            area = np.zeros(len(grid.z))
            area[box[0]] = seen.sum(axis=(1, 2)) * grid.pixel**2
            areas[region, chronic] = area
            total += area
            view = mask[box]
            view[seen > 0] = region + 8 * chronic
    return ClotTruth(mask, total, drawn_labels(areas, difficulty.visible_mm2))


def _tubes_of(clots: list[Clot], arteries: vessels.Arteries, region: int, chronic: bool) -> Tubes | None:
    parts = []
    for clot in clots:
        if clot.chronic == chronic:
            own = arteries.region[arteries.segment[clot.pieces]] == region
            if own.any():
                tubes = clot_tubes(clot, arteries)
                parts.append(tubes.take(np.tile(own, len(tubes) // len(own))))
    return join(parts) if parts else None
