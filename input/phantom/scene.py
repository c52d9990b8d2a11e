"""Rendering of an exam slab by slab: body, lungs, heart, vessels, clots, then the acquisition effects."""

import numpy as np

from input.contest import QA_CONTRAST, QA_MOTION
from input.phantom import chest_wall as wall
from input.phantom import physics
from input.phantom import vessel_trees as vessels
from input.phantom.abdomen import paint_abdomen
from input.phantom.confounders import sample_confounders
from input.phantom.difficulty import Difficulty
from input.phantom.emboli import Clot, clot_tubes
from input.phantom.heart_anatomy import Heart, paint_heart
from input.phantom.lungs import Texture, paint_lungs
from input.phantom.mediastinum import build_airways, build_great_vessels
from input.phantom.patient import Patient
from input.phantom.raster import Box, Grid, Tubes, tube_coverage
from input.phantom.thorax import cage_field

MEDIASTINAL_FAT = -80.0  # HU
BRONCHIAL_WALL_MM = 0.9
STREAK_HU = 450.0  # attenuation of the superior vena cava above which streaks appear


class Scene:
    """The parts of an exam that do not depend on the slab being rendered.

    Args:
        patient: the patient's dimensions.
        heart: the chambers.
        arteries: the arterial tree, widened by the clots.
        clots: the clots.
        labels: positive exam and QA labels.
        difficulty: parameters of the level.
        rng: the exam's `streams`.
    """

    def __init__(
        self, patient: Patient, heart: Heart, arteries: vessels.Arteries, clots: list[Clot], labels: frozenset[str],
        difficulty: Difficulty, rng: dict[str, np.random.Generator],
    ) -> None:  # fmt: skip
        self.patient, self.heart, self.arteries, self.clots, self.rng = patient, heart, arteries, clots, rng
        self.veins = vessels.build_veins(patient, rng["anatomy"], twigs=difficulty.twigs)
        self.great = build_great_vessels(patient)
        self.airways = build_airways(patient, arteries)
        self.texture = Texture(patient, rng["anatomy"])
        self.scapulae = wall.scapulae(patient)
        self.contrast = physics.sample_contrast(rng["physics"], poor=QA_CONTRAST in labels)
        self.scanner = physics.sample_scanner(rng["physics"], difficulty.noise_sd)
        self.breath_mm = float(rng["physics"].uniform(5, 9)) * (QA_MOTION in labels)
        self.confounders = sample_confounders(
            labels, arteries, self.veins, self.great["cava"], self.airways, self.contrast.artery, difficulty,
            rng["physics"],
        )  # fmt: skip

    def render(self, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
        """Render a slab: HU (int16) and artery mask (bool), both (z, y, x)."""
        volume = np.empty(grid.shape, np.float32)
        self._paint_body(volume, grid)
        artery = self._paint_vessels(volume, grid)
        self._add_streaks(volume, grid)
        if self.breath_mm:
            volume = physics.breathe(volume, grid, self.breath_mm, self.rng["physics"])
        volume = physics.finish(volume, grid, self.scanner, self.rng["noise"])
        return np.rint(np.clip(volume, -1024, 3071, out=volume), out=volume).astype(np.int16), artery

    def _paint_body(self, volume: np.ndarray, grid: Grid) -> None:
        texture = self.texture.field(grid)
        for planes in physics.cached_parts(len(volume)):
            part, target = grid.part((planes, slice(None), slice(None))), volume[planes]
            cage = cage_field(self.patient, part)
            wall.paint_wall(target, self.patient, cage)
            np.copyto(target, np.float32(MEDIASTINAL_FAT), where=cage.outside < 1)
            paint_abdomen(target, self.patient, cage, part)
            wall.paint_bones(target, self.patient, part)
            paint_lungs(target, self.patient, cage, part, texture[planes])
        wall.paint_table(volume, self.patient, grid)
        blend(volume, grid, self.scapulae, 420)
        blood = self.contrast
        hu = {
            "fat": MEDIASTINAL_FAT,
            "muscle": 62.0,
            "rv": blood.right_heart,
            "ra": 0.6 * blood.right_heart + 0.4 * blood.lower_cava,
            "lv": blood.left_heart,
            "la": blood.left_heart,
        }
        paint_heart(volume, self.heart, grid, hu)

    def _paint_vessels(self, volume: np.ndarray, grid: Grid) -> np.ndarray:
        """Blend airways, vessels and clots; returns the artery mask, bool (z, y, x)."""
        blood, great, confounders = self.contrast, self.great, self.confounders
        blend(volume, grid, great["oesophagus"], 38)
        if confounders.nodes is not None:
            blend(volume, grid, confounders.nodes, 48)
        blend(volume, grid, great["lower_cava"], blood.lower_cava)
        blend(volume, grid, great["azygos"], 90)
        blend(volume, grid, great["brachiocephalic"], blood.cava * 0.8)
        blend(volume, grid, great["cava"], blood.cava)
        self._paint_airways(volume, grid)
        blend(volume, grid, self.veins, blood.vein)
        blend(volume, grid, great["aorta"], blood.aorta)
        for tubes, value in confounders.defects:
            blend(volume, grid, tubes, value)
        # Arteries and their clots come last, so that nothing hides what the labels describe.
        lumen = blend(volume, grid, self.arteries.tubes, blood.artery)
        for tubes, value in confounders.flow:
            blend(volume, grid, tubes, value, within=lumen)
        for clot in self.clots:
            blend(volume, grid, clot_tubes(clot, self.arteries), clot.hu, within=lumen)
        box, cover = lumen
        artery = np.zeros(grid.shape, bool)
        artery[box] = cover > 0.5
        return artery

    def _paint_airways(self, volume: np.ndarray, grid: Grid) -> None:
        plugged = self.confounders.plugged
        blend(volume, grid, self.airways.thicker(BRONCHIAL_WALL_MM), 20)
        blend(volume, grid, self.airways.take(~plugged), -985)

    def _add_streaks(self, volume: np.ndarray, grid: Grid) -> None:
        """Add streaks around the superior vena cava where it is brighter than STREAK_HU."""
        tubes = self.great["cava"]
        middle = (tubes.start + tubes.end) / 2
        order = np.argsort(middle[:, 2])
        z = middle[order, 2]
        source = np.stack([np.interp(grid.z, z, middle[order, i], left=np.nan, right=np.nan) for i in (0, 1)], axis=1)
        strength = max(0.0, self.contrast.cava - STREAK_HU) / 850 * 55
        physics.add_streaks(volume, grid, source, strength, self.rng["physics"])


def blend(
    volume: np.ndarray, grid: Grid, tubes: Tubes, value: float, within: tuple[Box, np.ndarray] | None = None
) -> tuple[Box, np.ndarray]:
    """Blend tubes of one attenuation into a volume.

    Args:
        volume: HU, (z, y, x), changed in place.
        grid: coordinates of the volume.
        tubes: the tubes to blend.
        value: attenuation, HU.
        within: box and coverage of other tubes that limit these.

    Returns:
        Box and coverage of the tubes.
    """
    box, cover = tube_coverage(grid, tubes)
    if cover.size:
        if within is not None:
            cover = _limited(box, cover, *within)
        target = volume[box]
        target += cover * (np.float32(value) - target)
    return box, cover


def _limited(box: Box, cover: np.ndarray, outer_box: Box, outer: np.ndarray) -> np.ndarray:
    """Limit a coverage to that of other tubes: the voxel-wise minimum, 0 outside their box."""
    limited = np.zeros_like(cover)
    low = [max(a.start, b.start) for a, b in zip(box, outer_box, strict=True)]
    high = [max(lo, min(a.stop, b.stop)) for lo, a, b in zip(low, box, outer_box, strict=True)]
    inner = tuple(slice(lo - a.start, hi - a.start) for lo, hi, a in zip(low, high, box, strict=True))
    shared = tuple(slice(lo - b.start, hi - b.start) for lo, hi, b in zip(low, high, outer_box, strict=True))
    limited[inner] = np.minimum(cover[inner], outer[shared])
    return limited
