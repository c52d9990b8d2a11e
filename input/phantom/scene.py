"""Paints an exam slab by slab: body, lungs, heart, vessels, clots, then what the scanner does to it."""

import numpy as np

from input.contest import QA_CONTRAST, QA_MOTION
from input.phantom import chest_wall as wall
from input.phantom import physics
from input.phantom import vessel_trees as vessels
from input.phantom.abdomen import paint_abdomen
from input.phantom.confounders import draw_confounders
from input.phantom.difficulty import Difficulty
from input.phantom.emboli import Clot, clot_tubes
from input.phantom.heart_anatomy import Heart, paint_heart
from input.phantom.lungs import Texture, paint_lungs
from input.phantom.patient import Patient
from input.phantom.raster import Grid, Tubes, join, tube_coverage
from input.phantom.thorax import cage_field

MEDIASTINAL_FAT = -80.0
BRONCHIAL_WALL_MM = 0.9


class Scene:
    """Everything of an exam that does not depend on the slab being drawn."""

    def __init__(
        self, patient: Patient, heart: Heart, arteries: vessels.Arteries, clots: list[Clot], on: frozenset[str],
        difficulty: Difficulty, rng: dict[str, np.random.Generator],
    ) -> None:  # fmt: skip
        self.patient, self.heart, self.arteries, self.clots, self.on, self.rng = (
            patient,
            heart,
            arteries,
            clots,
            on,
            rng,
        )
        self.veins = vessels.draw_veins(patient, rng["anatomy"], twigs=difficulty.twigs)
        self.great = vessels.draw_great_vessels(patient)
        self.airways = vessels.draw_airways(patient, arteries)
        self.texture = Texture(patient, rng["anatomy"])
        self.scapulae = wall.scapulae(patient)
        self.contrast = physics.draw_contrast(rng["physics"], poor=QA_CONTRAST in on)
        self.scanner = physics.draw_scanner(rng["physics"], difficulty.noise_sd)
        self.breath_mm = float(rng["physics"].uniform(5, 9)) * (QA_MOTION in on)
        self.confounders = draw_confounders(
            on, arteries, self.veins, self.great["cava"], self.airways, self.contrast.artery, difficulty, rng["physics"]
        )

    def draw(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """HU (int16) and artery mask (bool) of a slab, both (z, y, x)."""
        volume = np.empty(grid.shape, np.float32)
        self._paint_body(volume, grid)
        artery = self._paint_vessels(volume, grid)
        self._add_streaks(volume, grid)
        if self.breath_mm:
            volume = physics.breathe(volume, grid, self.breath_mm, self.rng["physics"])
        volume = physics.finish(volume, grid, self.scanner, self.rng["noise"])
        return np.rint(np.clip(volume, -1024, 3071, out=volume), out=volume).astype(np.int16), artery

    def _paint_body(self, volume: np.ndarray, grid: Grid) -> None:
        cage = cage_field(self.patient, grid)
        wall.paint_wall(volume, self.patient, cage)
        np.copyto(volume, np.float32(MEDIASTINAL_FAT), where=cage.outside < 1)
        paint_abdomen(volume, self.patient, cage, grid)
        wall.paint_bones(volume, self.patient, grid)
        paint_lungs(volume, self.patient, cage, grid, self.texture)
        wall.paint_table(volume, self.patient, grid)
        blend(volume, grid, self.scapulae, 420)
        c = self.contrast
        right_atrium = 0.6 * c.right_heart + 0.4 * c.lower_cava
        hu = {
            "fat": MEDIASTINAL_FAT,
            "muscle": 62.0,
            "rv": c.right_heart,
            "ra": right_atrium,
            "lv": c.left_heart,
            "la": c.left_heart,
        }
        paint_heart(volume, self.heart, grid, hu)

    def _paint_vessels(self, volume: np.ndarray, grid: Grid) -> np.ndarray:
        c, great, other = self.contrast, self.great, self.confounders
        blend(volume, grid, great["oesophagus"], 38)
        if other.nodes is not None:
            blend(volume, grid, other.nodes, 48)
        blend(volume, grid, great["lower_cava"], c.lower_cava)
        blend(volume, grid, great["azygos"], 90)
        blend(volume, grid, great["brachiocephalic"], c.cava * 0.8)
        blend(volume, grid, great["cava"], c.cava)
        self._paint_airways(volume, grid)
        blend(volume, grid, self.veins, c.vein)
        blend(volume, grid, great["aorta"], c.aorta)
        for tubes, value in other.defects:
            blend(volume, grid, tubes, value)
        # Arteries and their clots come last: nothing may hide what the labels speak of.
        drawn = blend(volume, grid, self.arteries.tubes, c.artery)
        for tubes, value in other.flow:
            blend(volume, grid, tubes, value, within=drawn)
        for clot in self.clots:
            blend(volume, grid, clot_tubes(clot, self.arteries), clot.hu, within=drawn)
        artery = np.zeros(grid.shape, bool)
        artery[drawn[0]] = drawn[1] > 0.5
        return artery

    def _paint_airways(self, volume: np.ndarray, grid: Grid) -> None:
        plugged = self.confounders.plugged
        blend(volume, grid, self.airways.thicker(BRONCHIAL_WALL_MM), 20)
        blend(volume, grid, self.airways.take(~plugged), -985)

    def _add_streaks(self, volume: np.ndarray, grid: Grid) -> None:
        """Streaks where the upper vena cava is brighter than 450 HU."""
        tubes = join([self.great["cava"]])
        middle = (tubes.start + tubes.end) / 2
        order = np.argsort(middle[:, 2])
        z = middle[order, 2]
        source = np.stack([np.interp(grid.z, z, middle[order, i], left=np.nan, right=np.nan) for i in (0, 1)], axis=1)
        strength = max(0.0, self.contrast.cava - 450) / 850 * 55
        physics.add_streaks(volume, grid, source, strength, self.rng["physics"])


def blend(
    volume: np.ndarray, grid: Grid, tubes: Tubes, value: float, within: tuple[tuple, np.ndarray] | None = None
) -> tuple[tuple[slice, slice, slice], np.ndarray]:
    """Blend tubes of one attenuation (HU) into the volume; returns their box and coverage.

    Args:
        volume: (z, y, x), changed in place.
        grid: its coordinates.
        tubes: what to draw.
        value: HU.
        within: box and coverage of other tubes that limit these.
    """
    box, cover = tube_coverage(grid, tubes)
    if cover.size:
        if within is not None:
            cover = _limited(box, cover, *within)
        target = volume[box]
        target += cover * (np.float32(value) - target)
    return box, cover


def _limited(box: tuple, cover: np.ndarray, outer_box: tuple, outer: np.ndarray) -> np.ndarray:
    """The coverage where another one has it too."""
    limited = np.zeros_like(cover)
    low = [max(a.start, b.start) for a, b in zip(box, outer_box, strict=True)]
    high = [max(lo, min(a.stop, b.stop)) for lo, a, b in zip(low, box, outer_box, strict=True)]
    own = tuple(slice(lo - a.start, hi - a.start) for lo, hi, a in zip(low, high, box, strict=True))
    other = tuple(slice(lo - b.start, hi - b.start) for lo, hi, b in zip(low, high, outer_box, strict=True))
    limited[own] = np.minimum(cover[own], outer[other])
    return limited
