"""Structures that resemble clots: lymph nodes, mucus plugs, flow artifacts, filling defects other than PE."""

from dataclasses import dataclass

import numpy as np

from input.contest import FILLING_DEFECT_NOT_PE, FLOW_ARTIFACT
from input.phantom.difficulty import Difficulty
from input.phantom.raster import Tubes
from input.phantom.vessel_trees import LEFT_LUNG, RIGHT_LUNG, Arteries


@dataclass(frozen=True)
class Confounders:
    """Confounders of one exam; tubes in mm, attenuation in HU."""

    nodes: Tubes | None  # lymph nodes beside hilar arteries, soft tissue
    plugged: np.ndarray  # (airway pieces,) bool: filled with mucus
    flow: tuple[tuple[Tubes, float], ...]  # incompletely mixed blood: tubes and attenuation
    defects: tuple[tuple[Tubes, float], ...]  # filling defects other than PE: tubes and attenuation


def sample_confounders(
    labels: frozenset[str], arteries: Arteries, veins: Tubes, cava: Tubes, airways: Tubes, artery_hu: float,
    difficulty: Difficulty, rng: np.random.Generator,
) -> Confounders:  # fmt: skip
    """Sample the confounders of an exam; only those with a label of their own depend on `labels`.

    Args:
        labels: positive exam and QA labels.
        arteries: the arterial tree.
        veins: pulmonary veins.
        cava: superior vena cava.
        airways: trachea and bronchi.
        artery_hu: attenuation of arterial blood.
        difficulty: mean numbers of nodes and plugs.
        rng: the exam's stream for physics.
    """
    nodes = _nodes(arteries, rng.poisson(difficulty.nodes), rng)
    plugged = _plugs(airways, rng.poisson(difficulty.plugs), rng)
    flow = _flow(arteries, artery_hu, rng) if FLOW_ARTIFACT in labels else ()
    defects = _defects(veins, cava, rng) if FILLING_DEFECT_NOT_PE in labels else ()
    return Confounders(nodes, plugged, flow, defects)


def _nodes(arteries: Arteries, count: int, rng: np.random.Generator) -> Tubes | None:
    """Place ovals of 8-18 mm that touch lobar arteries from outside."""
    tubes = arteries.tubes
    hilar = np.flatnonzero((tubes.r0 > 3.5) & (tubes.r0 < 10))
    if not count or not len(hilar):
        return None
    chosen = tubes.take(rng.choice(hilar, count))
    along = chosen.end - chosen.start
    aside = np.cross(along, rng.normal(size=(count, 3)))
    aside /= np.maximum(np.linalg.norm(aside, axis=1, keepdims=True), 1e-6)
    radius = rng.uniform(3.5, 7.5, count)
    centre = chosen.start + aside * (chosen.r0 + radius * 0.9)[:, None]
    half = along / np.maximum(np.linalg.norm(along, axis=1, keepdims=True), 1e-6) * (radius * 0.4)[:, None]
    return Tubes(centre - half, centre + half, radius, radius)


def _plugs(airways: Tubes, count: int, rng: np.random.Generator) -> np.ndarray:
    """Mark short runs of small bronchi as plugged."""
    plugged = np.zeros(len(airways), bool)
    small = np.flatnonzero(airways.r0 < 3)
    for start in rng.choice(small, count) if len(small) else ():
        plugged[start : start + int(rng.integers(2, 5))] = True
    return plugged


def _flow(arteries: Arteries, artery_hu: float, rng: np.random.Generator) -> tuple[tuple[Tubes, float], ...]:
    """Place streams of weaker contrast in segmental arteries: ill-defined and brighter than clot."""
    region = arteries.region[arteries.segment]
    tubes = arteries.tubes
    wide = np.isin(region, (LEFT_LUNG, RIGHT_LUNG)) & (tubes.r0 > 2.0)
    streams = []
    for segment in rng.choice(np.unique(arteries.segment[wide]), int(rng.integers(2, 5))):
        lumen = tubes.take(np.flatnonzero(arteries.segment == segment))
        stream = Tubes(lumen.start, lumen.end, lumen.r0 * 0.55, lumen.r1 * 0.55)
        streams.append((stream, artery_hu * float(rng.uniform(0.5, 0.7))))
    return tuple(streams)


def _defects(veins: Tubes, cava: Tubes, rng: np.random.Generator) -> tuple[tuple[Tubes, float], ...]:
    """Place a tumour in a large pulmonary vein, or a thrombus around a catheter in the superior vena cava."""
    source = veins if rng.random() < 0.5 else cava
    wide = np.flatnonzero(source.r0 >= np.quantile(source.r0, 0.97 if source is veins else 0.3))
    start = int(rng.choice(wide))
    run = source.take(np.arange(start, min(len(source), start + 3)))
    ratio = float(rng.uniform(0.5, 0.8))
    return ((Tubes(run.start, run.end, run.r0 * ratio, run.r1 * ratio), float(rng.uniform(35, 80))),)
