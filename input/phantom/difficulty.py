"""How hard the drawn contest is: one table of named parameters."""

from dataclasses import dataclass

from pipeline.errors import UserError


@dataclass(frozen=True)
class Difficulty:
    """The parameters that separate an easy contest from one like the real thing.

    Lengths are mm, attenuations HU. Ranges are (low, high) of a uniform draw.
    """

    noise_sd: tuple[float, float]  # in soft tissue
    clot_artery_mm: tuple[float, float]  # diameters of the arteries that hold clots outside the main arteries
    small_share: float  # share of clots in arteries below `clot_artery_mm`, down to `small_artery_mm`
    small_artery_mm: float
    clot_ratio: tuple[float, float]  # diameter of an acute, not occlusive clot over its artery's
    occlusive_share: float  # of acute clots
    acute_hu: tuple[float, float]
    chronic_hu: tuple[float, float]
    burden: float  # multiplies the drawn q
    visible_mm2: float  # clot area from which a slice counts as positive
    nodes: float  # mean number of hilar lymph nodes
    plugs: float  # mean number of mucus plugs
    effusion_share: float  # exams with pleural fluid
    opacity_share: float  # exams with patches of ground glass or consolidation


DIFFICULTIES = {
    "easy": Difficulty(
        noise_sd=(8, 14), clot_artery_mm=(5.0, 14.0), small_share=0.0, small_artery_mm=5.0, clot_ratio=(0.75, 0.9),
        occlusive_share=0.4, acute_hu=(30, 60), chronic_hu=(70, 90), burden=1.5, visible_mm2=9.0, nodes=1.0,
        plugs=0.0, effusion_share=0.05, opacity_share=0.05,
    ),
    "medium": Difficulty(
        noise_sd=(10, 20), clot_artery_mm=(4.0, 14.0), small_share=0.1, small_artery_mm=3.2, clot_ratio=(0.65, 0.88),
        occlusive_share=0.3, acute_hu=(30, 70), chronic_hu=(70, 105), burden=1.25, visible_mm2=6.0, nodes=2.0,
        plugs=0.7, effusion_share=0.15, opacity_share=0.15,
    ),
    "contest": Difficulty(
        noise_sd=(10, 26), clot_artery_mm=(3.2, 14.0), small_share=0.35, small_artery_mm=2.0, clot_ratio=(0.5, 0.88),
        occlusive_share=0.3, acute_hu=(30, 70), chronic_hu=(70, 105), burden=1.0, visible_mm2=2.0, nodes=3.0,
        plugs=1.5, effusion_share=0.2, opacity_share=0.25,
    ),
}  # fmt: skip


def difficulty_named(name: str) -> Difficulty:
    """The table's entry; an unknown name lists the known ones."""
    if name not in DIFFICULTIES:
        raise UserError(f"phantom.difficulty: expected one of {', '.join(DIFFICULTIES)}, found {name!r}")
    return DIFFICULTIES[name]
