"""Difficulty levels of the synthetic contest: one table of named parameters."""

from dataclasses import dataclass

from pipeline.errors import UserError

#: Bounds of q (share of positive slices) between its quartiles, without the smallest and largest burdens.
BURDEN_BOUNDS = (0.025, 0.07, 0.144, 0.26, 0.70)
#: The bounds of the contest: median .144, maximum .870. With `burden_skew` 2 the mean is .178, so with 30.4 % of the
#: exams positive, 5.4 % of the slices are.
CONTEST_BOUNDS = (0.01, 0.07, 0.144, 0.24, 0.87)


@dataclass(frozen=True)
class Difficulty:
    """Parameters of one level.

    Lengths in mm, attenuation in HU. Ranges are the (low, high) of a uniform distribution.
    """

    noise_sd: tuple[float, float]  # noise in soft tissue
    clot_artery_mm: tuple[float, float]  # diameter of arteries with clots, outside the main arteries
    small_share: float  # share of clots in narrower arteries, down to `small_artery_mm`
    small_artery_mm: float
    clot_ratio: tuple[float, float]  # diameter of an acute, non-occlusive clot / diameter of its artery
    occlusive_share: float  # of acute clots outside the main arteries
    acute_hu: tuple[float, float]
    chronic_hu: tuple[float, float]
    burden: float  # factor on q
    burden_bounds: tuple[float, float, float, float, float]  # of q between the quartiles, before `burden`
    burden_skew: float  # top quartile: 1 = log-uniform, larger = the largest burdens are rarer
    web_share: float  # share of webs among chronic clots outside the main arteries
    visible_mm2: float  # smallest clot area of a positive slice
    nodes: float  # mean number of hilar lymph nodes
    plugs: float  # mean number of mucus plugs
    effusion_share: float  # share of exams with pleural fluid
    opacity_share: float  # share of exams with patches of ground glass or consolidation
    twigs: int  # terminal branches of the arteries, and of the veins, in both lungs; more are thinner
    dilation: tuple[float, float]  # largest relative width of the trunk in right heart strain and in chronic disease


DIFFICULTIES = {
    "easy": Difficulty(
        noise_sd=(8, 14), clot_artery_mm=(5.0, 14.0), small_share=0.0, small_artery_mm=5.0, clot_ratio=(0.75, 0.9),
        occlusive_share=0.4, acute_hu=(30, 60), chronic_hu=(70, 90), burden=1.5,
        burden_bounds=BURDEN_BOUNDS, burden_skew=1.0, web_share=0.0, visible_mm2=9.0, nodes=1.0, plugs=0.0,
        effusion_share=0.05, opacity_share=0.05, twigs=520, dilation=(1.0, 1.0),
    ),
    "medium": Difficulty(
        noise_sd=(10, 20), clot_artery_mm=(4.0, 14.0), small_share=0.1, small_artery_mm=3.2, clot_ratio=(0.65, 0.88),
        occlusive_share=0.3, acute_hu=(30, 70), chronic_hu=(70, 105), burden=1.25,
        burden_bounds=BURDEN_BOUNDS, burden_skew=1.0, web_share=0.2, visible_mm2=6.0, nodes=2.0, plugs=0.7,
        effusion_share=0.15, opacity_share=0.15, twigs=900, dilation=(1.15, 1.3),
    ),
    "contest": Difficulty(
        noise_sd=(10, 26), clot_artery_mm=(3.2, 14.0), small_share=0.35, small_artery_mm=2.0, clot_ratio=(0.5, 0.88),
        occlusive_share=0.3, acute_hu=(30, 70), chronic_hu=(70, 105), burden=1.0,
        burden_bounds=CONTEST_BOUNDS, burden_skew=2.0, web_share=0.25, visible_mm2=2.0, nodes=3.0, plugs=1.5,
        effusion_share=0.2, opacity_share=0.25, twigs=1400, dilation=(1.15, 1.3),
    ),
}  # fmt: skip


def difficulty_named(name: str) -> Difficulty:
    """Look up a level by name.

    Raises:
        UserError: for an unknown name; lists the known ones.
    """
    if name not in DIFFICULTIES:
        raise UserError(f"Unknown difficulty. Expected one of {', '.join(DIFFICULTIES)}, got {name!r}.")
    return DIFFICULTIES[name]
