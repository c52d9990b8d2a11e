"""One exam with implanted clots: sampled target labels, placed clots, new pixels and ground truth."""

from dataclasses import dataclass, replace

import numpy as np

from input.contest import CENTRAL, GTE_1, LEFT, LT_1, NEGATIVE, QA_LABELS, RIGHT
from input.implant.blood_lumen import find_lumen, implant_clots, pulmonary_tubes
from input.implant.real_arteries import DetectedArteries
from input.implant.source_scan import SourceScan
from input.phantom.difficulty import Difficulty
from input.phantom.emboli import widen_arteries
from input.phantom.exam_generator import place_clots
from input.phantom.labels import ExamState, burden_table, contest_states, is_positive
from input.phantom.physics import Scanner
from input.phantom.raster import Grid, tube_coverage
from input.phantom.vessel_trees import LEFT_LUNG, RIGHT_LUNG, Arteries
from pipeline.errors import UserError


@dataclass(frozen=True)
class ImplantedExam:
    """A scan with clots; arrays (z, y, x) on the grid of the scan."""

    hu: np.ndarray  # int16
    grid: Grid
    labels: frozenset[str]  # positive exam labels
    pe_present: np.ndarray  # (n,) bool
    clot: np.ndarray  # uint8, codes as in `input.phantom.synthetic_contest.read_masks`
    artery: np.ndarray  # bool, detected arteries
    clot_area_mm2: np.ndarray  # (n,)
    clots: list[dict]
    scanner: Scanner
    fov_mm: float


def generate_implanted_exam(
    source: SourceScan, detected: DetectedArteries, difficulty: Difficulty, rv_lv: str, rng: np.random.Generator
) -> ImplantedExam:
    """Place clots in the detected arteries of a scan, insert them, and derive the labels from the visible clots.

    Args:
        source: the scan.
        detected: its pulmonary arteries.
        difficulty: parameters of the clots.
        rv_lv: RV/LV label of the scan.
        rng: random generator.

    Raises:
        UserError: when no placement shows the target labels.
    """
    hu, grid, arteries = source.hu, source.grid, detected.arteries
    lumen = find_lumen(hu, grid, detected)
    state = sample_state(arteries, rv_lv, rng)
    try:
        clots, truth = place_clots(state, arteries, grid, difficulty, rng, lumen.share)
    except RuntimeError as error:
        raise UserError(f"The detected arteries are too few or too narrow. {error} Try another --seed.") from error
    mask = np.zeros(grid.shape, bool)
    box, cover = tube_coverage(grid, pulmonary_tubes(arteries))
    mask[box] = cover * lumen.share[box] > 0.5
    visible = truth.area >= difficulty.visible_mm2
    return ImplantedExam(
        implant_clots(hu, grid, clots, widen_arteries(arteries, clots), lumen), grid, truth.labels | {rv_lv}, visible,
        truth.mask, mask | (truth.mask > 0), truth.area, [clot.as_row(arteries) for clot in clots],
        Scanner("IMPLANTED", "AS SOURCE", 0.0, 0.0, 0.0, 0.0), grid.pixel * len(grid.x),
    )  # fmt: skip


def sample_state(arteries: Arteries, rv_lv: str, rng: np.random.Generator) -> ExamState:
    """Sample a joint state of the contest, by its frequency, that the detected arteries can show.

    Args:
        arteries: the detected arteries.
        rv_lv: RV/LV label of the scan.
        rng: random generator.
    """
    sides = {LEFT: LEFT_LUNG, RIGHT: RIGHT_LUNG}
    impossible = {CENTRAL, *QA_LABELS, *({GTE_1, LT_1} - {rv_lv})}
    impossible |= {label for label, region in sides.items() if region not in arteries.region}
    states = [(labels, n) for labels, n in contest_states() if is_positive(labels) and not labels & impossible]
    share = np.array([n for _, n in states], float)
    labels = states[rng.choice(len(states), p=share / share.sum())][0]
    return ExamState(labels, int(rng.choice(4, p=burden_table()[labels])))


def negative_counterpart(exam: ImplantedExam, source: SourceScan) -> ImplantedExam:
    """Return the unchanged scan as a negative exam with the artery mask of `exam`."""
    return replace(
        exam, hu=source.hu, labels=frozenset({NEGATIVE}), pe_present=np.zeros_like(exam.pe_present), clots=[],
        clot=np.zeros_like(exam.clot), clot_area_mm2=np.zeros_like(exam.clot_area_mm2),
    )  # fmt: skip
