"""Overlap of activation maps with clots, on the synthetic test exams of a finished run, whose clots are known.

    ./run.sh bench activation                          both kinds of maps, the run under $PE_ROOT
    ./run.sh bench activation --kinds contribution     only the cheap kind
    ./run.sh bench activation --slices 8 --out maps.png
    ./run.sh bench activation --exams 20 --slices 1    a quick estimate in a minute

Maps are computed for some slices with PE of every test exam with PE; those of all folds' networks of a backbone are
averaged, as their predictions are. For each backbone, means over exams with 95 % bootstrap intervals over exams:
    mass       share of the map's positive part within 10 mm of a clot (in the slice)
    peak       share of maps whose strongest cell's centre is within 10 mm, or 20 mm, of a clot
    side       share of the positive part of the left-sided map on the patient's left, in exams with PE only on the
               left, and likewise for the right
Each is compared with the share of the area (chance), and with the map of another exam (other exam), which shows the
anatomy but not this exam's clot. Synthetic data.
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
from submissions.text_table import text_table

TARGETS = (SLICE_LABEL, LEFT, RIGHT)
#: Kinds of maps: that of the evidence report, and a cheaper one.
LOADERS = {"occlusion": load_activation_maps, "contribution": load_contribution_maps}
NEAR_MM = 10.0
RESAMPLES = 1000


class Case(NamedTuple):
    """One slice with PE: its ground truth and its maps.

    Attributes:
        study: StudyInstanceUID.
        distance_mm: (y, x) to the nearest clot in the slice.
        visible: (y, x) whether the network's input contains the pixel.
        left: (y, x) the patient's left half.
        overlays: (targets, y, x) maps on stored pixels.
        peak: (y, x) pixel of the slice label's strongest cell.
    """

    study: str
    distance_mm: np.ndarray
    visible: np.ndarray
    left: np.ndarray
    overlays: np.ndarray
    peak: tuple[int, int]


def cases(settings: Settings, backbone: str, kind: str, exams: pd.DataFrame, slices: int) -> Iterator[Case]:
    """Yield the maps of evenly spread slices with PE of every exam.

    Args:
        settings: of the finished run.
        backbone: the slice network.
        kind: a key of LOADERS.
        exams: test exams with PE.
        slices: slices per exam.
    """
    recipe = settings.models.of(backbone)
    views = SliceViews(paths.store(), recipe)
    networks = [LOADERS[kind](settings, backbone, fold, targets=TARGETS) for fold in finished_folds(settings, backbone)]
    for study in progress(exams[STUDY], desc=f"{backbone} {kind}", unit="exam"):
        exam = open_exam(paths.store(), study)
        record = read_json(settings.data_root / "truth" / "exams" / f"{study}.json")
        rank = {sop: index for index, sop in enumerate(record["sops"])}
        planes = [plane for plane, sop in enumerate(exam.sop_uids) if record["pe_present"][rank[sop]]]
        chosen = np.unique(np.linspace(0, len(planes) - 1, min(slices, len(planes))).round().astype(int))
        planes = [planes[index] for index in chosen]
        clot = read_masks(settings.data_root, study)[0] > 0
        truth = stored_mask(clot[[rank[exam.sop_uids[plane]] for plane in planes]], exam)
        images = np.stack([views.view(study, plane) for plane in planes])
        maps = np.mean([network(images) for network in networks], axis=0)
        for slice_maps, mask in zip(maps, truth, strict=True):
            if mask.any():
                yield _case(
                    study, exam, mask, slice_maps, networks[0].grid, views.matrix(study), recipe.height, recipe.width
                )


def finished_folds(settings: Settings, backbone: str) -> list[int]:
    """The folds whose network is trained.

    Raises:
        UserError: none is.
    """
    folds = range(settings.input.folds)
    finished = [fold for fold in folds if (paths.model_run(backbone, fold) / MANIFEST).is_file()]
    if not finished:
        folder = paths.shown(paths.model_run(backbone, 0).parent)
        raise UserError(f"No finished network: {folder}. Expected one per fold. Train them: ./run.sh --to models")
    return finished


def stored_mask(mask: np.ndarray, exam: StoredExam) -> np.ndarray:
    """Resample a mask of raw planes (z, y, x), in canonical orientation, to the store's pixels."""
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
    overlays = np.stack([on_stored_slice(activation, grid, matrix, shape) for activation in maps])
    peak = np.clip(np.round(peak_on_stored_slice(maps[0], grid, matrix)), 0, np.array(shape) - 1)
    distance = ndimage.distance_transform_edt(~clot, exam.spacing_mm)
    return Case(study, distance, visible, columns > exam.middle_column, overlays, tuple(peak.astype(int)))


def peak_on_stored_slice(activation: np.ndarray, grid: FeatureGrid, matrix: np.ndarray) -> tuple[float, float]:
    """The centre (y, x), in stored pixels, of the cell with the highest value.

    Args:
        activation: (y', x') of one target.
        grid: position of the cells on the network's input.
        matrix: `SliceViews.matrix` of the exam.
    """
    y, x = np.unravel_index(np.argmax(activation), activation.shape)
    on_input = grid.cells_to_input() @ (x, y, 1.0)
    x, y = cv2.invertAffineTransform(np.asarray(matrix, float)) @ (*on_input, 1.0)
    return float(y), float(x)


def share_within(overlay: np.ndarray, region: np.ndarray, visible: np.ndarray) -> float:
    """Share of an overlay's positive part inside a region.

    Args:
        overlay: (y, x) map.
        region: (y, x) bool.
        visible: (y, x) bool; only these pixels count.

    Returns:
        0-1; NaN where the overlay has no positive part.
    """
    mass = np.maximum(overlay, 0) * visible
    return float(mass[region].sum() / mass.sum()) if mass.any() else np.nan


def location_metrics(case: Case, other: Case) -> dict[str, float]:
    """Metrics of the slice label's map: `<metric> map`, `<metric> other exam` and `<metric> chance`."""
    near = case.distance_mm <= NEAR_MM
    foreign = _stretched(other, case)
    metrics = {
        "mass map": share_within(case.overlays[0], near, case.visible),
        "mass other exam": share_within(foreign, near, case.visible),
        "mass chance": near[case.visible].mean(),
    }
    foreign_peak = np.array(other.peak) * np.array(near.shape) // np.array(other.visible.shape)
    for limit, name in ((limit, f"peak within {limit:.0f} mm") for limit in (NEAR_MM, 2 * NEAR_MM)):
        metrics[f"{name} map"] = case.distance_mm[case.peak] <= limit
        metrics[f"{name} other exam"] = case.distance_mm[tuple(foreign_peak)] <= limit
        metrics[f"{name} chance"] = (case.distance_mm[case.visible] <= limit).mean()
    return metrics


def _stretched(other: Case, case: Case) -> np.ndarray:
    """Another exam's overlay, stretched to the shape of this slice."""
    zoom = np.array(case.visible.shape) / other.visible.shape
    rows, columns = (
        (np.arange(size) / factor).astype(int) for size, factor in zip(case.visible.shape, zoom, strict=True)
    )
    return other.overlays[0][np.ix_(rows, columns)]


def side_metrics(case: Case, on_left: bool) -> dict[str, float]:
    """Share of the affected side's map on that side, and the share of the area."""
    half = case.left if on_left else ~case.left
    return {
        "side map": share_within(case.overlays[1 if on_left else 2], half, case.visible),
        "side chance": half[case.visible].mean(),
    }


def interval(values: np.ndarray) -> str:
    """Format the mean over exams and its 95 % bootstrap interval."""
    picks = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(values[picks].mean(axis=1), [0.025, 0.975])
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


def table_rows(maps: str, metrics: pd.DataFrame) -> list[list[str]]:
    """Rows of text: metric, map, other exam, chance, and map minus chance, each with its interval."""
    by_exam = metrics.groupby("study").mean()
    rows = []
    for metric in dict.fromkeys(name.rsplit(" map", 1)[0] for name in by_exam if name.endswith(" map")):
        known = by_exam[by_exam[f"{metric} map"].notna()]
        value = {kind: known.get(f"{metric} {kind}") for kind in ("map", "other exam", "chance")}
        cells = ["" if column is None else interval(column.to_numpy(float)) for column in value.values()]
        difference = interval((value["map"] - value["chance"]).to_numpy(float))
        rows.append([maps, metric, str(len(known)), *cells, difference])
    return rows


def measure(
    settings: Settings, kinds: list[str], slices: int, max_exams: int | None
) -> tuple[list[list[str]], dict[str, list[Case]]]:
    """Compute all maps and their metrics.

    Args:
        settings: of the finished run.
        kinds: of maps.
        slices: slices per exam.
        max_exams: number of exams; None: all test exams with PE.

    Returns:
        The table's rows, and "<backbone> <kind>" -> cases.
    """
    truth = pd.read_csv(settings.data_root / "truth" / "exams.csv")
    truth[STUDY] = truth[STUDY].astype(str)
    exams = truth[(truth["split"] == "test") & (truth["q"] > 0)].iloc[:max_exams]
    side = {row[STUDY]: bool(row[LEFT]) for _, row in exams.iterrows() if row[LEFT] != row[RIGHT]}
    rows, cases_by_maps = [], {}
    for backbone, kind in itertools.product(settings.models.backbones, kinds):
        own = list(cases(settings, backbone, kind, exams, slices))
        metrics = [
            {"study": case.study, **location_metrics(case, other),
             **(side_metrics(case, side[case.study]) if case.study in side else {})}
            for case, other in zip(own, _others(own), strict=True)
        ]  # fmt: skip
        rows += table_rows(f"{backbone} {kind}", pd.DataFrame(metrics))
        cases_by_maps[f"{backbone} {kind}"] = own
    return rows, cases_by_maps


def _others(own: list[Case]) -> list[Case]:
    """For every case one of another exam, half the list away."""
    return [
        next(
            (own[(index + len(own) // 2 + move) % len(own)] for move in range(len(own))
             if own[(index + len(own) // 2 + move) % len(own)].study != case.study), case
        )
        for index, case in enumerate(own)
    ]  # fmt: skip


def draw(cases_by_maps: dict[str, list[Case]], png: Path, count: int = 6) -> None:
    """Draw the maps of some exams with the clots outlined.

    Args:
        cases_by_maps: name of the maps -> cases.
        png: the file to write.
        count: maps per row.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(cases_by_maps), count, figsize=(2.4 * count, 2.2 * len(cases_by_maps)), squeeze=False
    )
    for row, (maps, chosen) in zip(axes, cases_by_maps.items(), strict=True):
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
    """Measure, print the table, draw the maps."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench activation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_settings_arguments(parser)
    parser.add_argument("--kinds", nargs="+", choices=LOADERS, default=[*LOADERS], help="kinds of maps (default: both)")
    parser.add_argument("--slices", type=int, default=4, help="slices with PE per exam, evenly spread (%(default)s)")
    parser.add_argument("--exams", type=int, help="use only the first N test exams with PE (all)", metavar="N")
    parser.add_argument("--out", type=Path, metavar="PNG", help="also draw some maps with the clots' outlines")
    arguments = parser.parse_args()
    settings = settings_from(arguments)
    if not settings.is_phantom:
        raise UserError(
            "The clots are unknown: --data. Expected the synthetic contest, got another tree. Run without --data."
        )
    started = time.monotonic()
    rows, cases_by_maps = measure(settings, arguments.kinds, arguments.slices, arguments.exams)
    say(text_table(["maps", "metric", "exams", "map", "other exam", "chance", "map minus chance"], rows))
    say(f"{sum(map(len, cases_by_maps.values()))} maps in {time.monotonic() - started:.0f} s; synthetic exams")
    if arguments.out:
        draw(cases_by_maps, arguments.out)


if __name__ == "__main__":
    run(main)
