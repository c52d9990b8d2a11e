"""Do the activation maps lie on the clots? On the drawn test exams of a finished run, whose clots are known.

    python -m benchmarks.activation                          both kinds of maps, the run under $PE_ROOT
    python -m benchmarks.activation --kinds contribution     the cheap kind alone
    python -m benchmarks.activation --slices 8 --out maps.png
    python -m benchmarks.activation --exams 20 --slices 1    a first look in a minute

For every test exam with PE, some of its slices with PE; the maps of all folds' networks of a backbone are
averaged, as their predictions are. Told for each backbone, as a mean over exams with a 95 % interval of
resampled exams:
    mass       share of the map's positive part that lies within 10 mm of a clot (in the slice)
    peak       how often the strongest cell's centre lies that near, or twice that near
    side       share of the positive part of the left map that lies on the patient's left, in exams with PE
               on the left alone, and the same for the right
Beside each stands what the place alone would give: the share of the area (chance), and the same map laid
on another exam (other exam), which knows the anatomy but not this exam's clot. Synthetic data.
"""

import argparse
import itertools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import pandas as pd
from scipy import ndimage

from benchmarks.contribution_maps import load_contribution_maps
from features.resample import resample_box
from features.store import StoredExam, open_exam
from input.contest import LEFT, RIGHT, SLICE_LABEL, STUDY
from input.phantom.synthetic_contest import read_masks
from models.activation_maps import load_activation_maps, on_stored_slice
from models.feature_grid import FeatureGrid
from models.slice_views import SliceViews
from pipeline import paths
from pipeline.artifact import MANIFEST
from pipeline.cli import add_settings_arguments, run, settings_from
from pipeline.console import progress, say
from pipeline.errors import UserError
from pipeline.files import read_json
from pipeline.settings import Settings
from submissions.leaderboard import aligned

TARGETS = (SLICE_LABEL, LEFT, RIGHT)
#: Kinds of maps: the one that the evidence report shows, and the cheap one.
LOADERS = {"occlusion": load_activation_maps, "contribution": load_contribution_maps}
NEAR_MM = 10.0
RESAMPLES = 1000


class Case(NamedTuple):
    """One slice with PE: what is known of it and what its map says.

    Attributes:
        distance_mm: (y, x) to the nearest clot in the slice.
        visible: (y, x) whether the network's input shows the pixel.
        left: (y, x) the patient's left half.
        overlays: (targets, y, x), and `peak`, the pixel (y, x) of the slice label's strongest cell.
    """

    study: str
    distance_mm: np.ndarray
    visible: np.ndarray
    left: np.ndarray
    overlays: np.ndarray
    peak: tuple[int, int]


def cases(settings: Settings, backbone: str, kind: str, exams: pd.DataFrame, slices: int) -> Iterator[Case]:
    """Map `slices` slices with PE of every exam."""
    recipe = settings.models.of(backbone)
    views = SliceViews(paths.store(), recipe)
    networks = [LOADERS[kind](settings, backbone, fold, targets=TARGETS) for fold in finished(settings, backbone)]
    for study in progress(exams[STUDY], what=f"{backbone} {kind}", unit="exam"):
        exam = open_exam(paths.store(), study)
        record = read_json(settings.data_root / "truth" / "exams" / f"{study}.json")
        rank = {sop: index for index, sop in enumerate(record["sops"])}
        planes = [plane for plane, sop in enumerate(exam.sop_uids) if record["pe_present"][rank[sop]]]
        chosen = np.unique(np.linspace(0, len(planes) - 1, min(slices, len(planes))).round().astype(int))
        planes = [planes[each] for each in chosen]
        clot = read_masks(settings.data_root, study)[0] > 0
        truth = stored_mask(clot[[rank[exam.sop_uids[plane]] for plane in planes]], exam)
        images = np.stack([views.view(study, plane) for plane in planes])
        maps = np.mean([network(images) for network in networks], axis=0)
        for each, mask in zip(maps, truth, strict=True):
            if mask.any():
                yield _case(study, exam, mask, each, networks[0].grid, views.matrix(study), recipe.height, recipe.width)


def finished(settings: Settings, backbone: str) -> list[int]:
    """The folds whose network is trained."""
    folds = range(settings.input.folds)
    found = [fold for fold in folds if (paths.model_run(backbone, fold) / MANIFEST).is_file()]
    if not found:
        raise UserError(f"{paths.shown(paths.model_run(backbone, 0).parent)}: no finished network; run ./run.sh")
    return found


def stored_mask(mask: np.ndarray, exam: StoredExam) -> np.ndarray:
    """A mask of raw planes (z, y, x), canonical orientation, on the store's pixels."""
    box = exam.box
    percent = resample_box(
        mask.astype(np.int16) * 100, (box.y0, box.y1, box.x0, box.x1), exam.raw_spacing_mm, exam.spacing_mm[0]
    )
    return percent >= 25


def _case(
    study: str, exam: StoredExam, clot: np.ndarray, maps: np.ndarray, grid: FeatureGrid, matrix: np.ndarray,
    height: int, width: int,
) -> Case:  # fmt: skip
    shape = clot.shape
    rows, columns = np.indices(shape)
    y = matrix[1, 0] * columns + matrix[1, 1] * rows + matrix[1, 2]
    x = matrix[0, 0] * columns + matrix[0, 1] * rows + matrix[0, 2]
    visible = (y > -0.5) & (y < height - 0.5) & (x > -0.5) & (x < width - 0.5)
    overlays = np.stack([on_stored_slice(each, grid, matrix, shape) for each in maps])
    peak = np.clip(np.round(peak_on_stored_slice(maps[0], grid, matrix)), 0, np.array(shape) - 1)
    distance = ndimage.distance_transform_edt(~clot, exam.spacing_mm)
    return Case(study, distance, visible, columns > exam.middle_column, overlays, tuple(peak.astype(int)))


def peak_on_stored_slice(activation: np.ndarray, grid: FeatureGrid, matrix: np.ndarray) -> tuple[float, float]:
    """The centre (y, x), in stored pixels, of the cell whose value is the highest.

    Args:
        activation: (y', x') of one target.
        grid: `grid` of the maps.
        matrix: `SliceViews.matrix` of the exam.
    """
    y, x = np.unravel_index(np.argmax(activation), activation.shape)
    seen = grid.cells_to_input() @ (x, y, 1.0)
    x, y = cv2.invertAffineTransform(np.asarray(matrix, float)) @ (*seen, 1.0)
    return float(y), float(x)


def share_within(overlay: np.ndarray, place: np.ndarray, visible: np.ndarray) -> float:
    """Share of the overlay's positive part, where the network sees, that lies in a place; NaN where there is none."""
    mass = np.maximum(overlay, 0) * visible
    return float(mass[place].sum() / mass.sum()) if mass.any() else np.nan


def located(case: Case, other: Case) -> dict[str, float]:
    """Every question about where the slice label's map lies: of the map, of another exam's map, and of the area."""
    near = case.distance_mm <= NEAR_MM
    foreign = _laid_on(other, case)
    found = {
        "mass map": share_within(case.overlays[0], near, case.visible),
        "mass other exam": share_within(foreign, near, case.visible),
        "mass chance": near[case.visible].mean(),
    }
    foreign_peak = np.array(other.peak) * np.array(near.shape) // np.array(other.visible.shape)
    for limit, name in ((limit, f"peak within {limit:.0f} mm") for limit in (NEAR_MM, 2 * NEAR_MM)):
        found[f"{name} map"] = case.distance_mm[case.peak] <= limit
        found[f"{name} other exam"] = case.distance_mm[tuple(foreign_peak)] <= limit
        found[f"{name} chance"] = (case.distance_mm[case.visible] <= limit).mean()
    return found


def _laid_on(other: Case, case: Case) -> np.ndarray:
    """Another exam's overlay, stretched onto this slice."""
    zoom = np.array(case.visible.shape) / other.visible.shape
    rows, columns = ((np.arange(size) / each).astype(int) for size, each in zip(case.visible.shape, zoom, strict=True))
    return other.overlays[0][np.ix_(rows, columns)]


def sided(case: Case, on_left: bool) -> dict[str, float]:
    """Does the map of the affected side's label lie on that side?"""
    place = case.left if on_left else ~case.left
    return {
        "side map": share_within(case.overlays[1 if on_left else 2], place, case.visible),
        "side chance": place[case.visible].mean(),
    }


def interval(values: np.ndarray) -> str:
    """Mean over exams and the 95 % interval of resampled exams."""
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def table(maps: str, found: pd.DataFrame) -> list[list[str]]:
    """Rows of text: question, map, other exam, chance, and map minus chance, each with its interval."""
    by_exam = found.groupby("study").mean()
    rows = []
    for question in dict.fromkeys(name.rsplit(" map", 1)[0] for name in by_exam if name.endswith(" map")):
        known = by_exam[by_exam[f"{question} map"].notna()]
        value = {kind: known.get(f"{question} {kind}") for kind in ("map", "other exam", "chance")}
        cells = ["" if each is None else interval(each.to_numpy(float)) for each in value.values()]
        difference = interval((value["map"] - value["chance"]).to_numpy(float))
        rows.append([maps, question, str(len(known)), *cells, difference])
    return rows


def measure(
    settings: Settings, kinds: list[str], slices: int, most: int | None
) -> tuple[list[list[str]], dict[str, list[Case]]]:
    """The table's rows, and the cases of every backbone and kind of map."""
    truth = pd.read_csv(settings.data_root / "truth" / "exams.csv")
    truth[STUDY] = truth[STUDY].astype(str)
    exams = truth[(truth["split"] == "test") & (truth["q"] > 0)].iloc[:most]
    side = {row[STUDY]: bool(row[LEFT]) for _, row in exams.iterrows() if row[LEFT] != row[RIGHT]}
    rows, kept = [], {}
    for backbone, kind in itertools.product(settings.models.backbones, kinds):
        seen = list(cases(settings, backbone, kind, exams, slices))
        others = _others(seen)
        found = [
            {"study": case.study, **located(case, other),
             **(sided(case, side[case.study]) if case.study in side else {})}
            for case, other in zip(seen, others, strict=True)
        ]  # fmt: skip
        rows += table(f"{backbone} {kind}", pd.DataFrame(found))
        kept[f"{backbone} {kind}"] = seen
    return rows, kept


def _others(seen: list[Case]) -> list[Case]:
    """For every case one of another exam, as far along the list as half of all."""
    return [
        next(
            (seen[(index + len(seen) // 2 + move) % len(seen)] for move in range(len(seen))
             if seen[(index + len(seen) // 2 + move) % len(seen)].study != case.study), case
        )
        for index, case in enumerate(seen)
    ]  # fmt: skip


def draw(settings: Settings, seen: dict[str, list[Case]], png: Path, count: int = 6) -> None:
    """Draw the first exams: the map over the slice's distance to a clot, clots outlined."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(seen), count, figsize=(2.4 * count, 2.2 * len(seen)), squeeze=False)
    for row, (maps, chosen) in zip(axes, seen.items(), strict=True):
        for axis, case in zip(row, chosen[:: max(1, len(chosen) // count)], strict=False):
            limit = np.abs(case.overlays[0]).max()
            axis.imshow(case.overlays[0], cmap="RdBu_r", vmin=-limit, vmax=limit)
            axis.contour(case.distance_mm, [0.5], colors="k", linewidths=0.8)
            axis.plot(*case.peak[::-1], "k+")
            axis.set_title(f"{maps} {case.study}", fontsize=6)
        for axis in row:
            axis.set_axis_off()
    figure.savefig(png, dpi=120, bbox_inches="tight")
    pyplot.close(figure)


def main() -> None:
    """Measure, tell, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_settings_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=LOADERS, default=[*LOADERS], help="of maps (both)")
    parser.add_argument("--slices", type=int, default=4, help="slices with PE an exam, evenly spread (%(default)s)")
    parser.add_argument("--exams", type=int, help="only the first so many test exams with PE (all)")
    parser.add_argument("--out", type=Path, metavar="PNG", help="also draw some maps with the clots' outlines")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    if not settings.is_phantom:
        raise UserError("benchmarks.activation needs the drawn contest: only there the clots are known")
    started = time.monotonic()
    rows, seen = measure(settings, arguments.kinds, arguments.slices, arguments.exams)
    say(aligned(["maps", "question", "exams", "map", "other exam", "chance", "map minus chance"], rows))
    say(f"{sum(map(len, seen.values()))} maps in {time.monotonic() - started:.0f} s; synthetic exams")
    if arguments.out:
        draw(settings, seen, arguments.out)


if __name__ == "__main__":
    run(main)
