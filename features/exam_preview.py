"""A page of pictures of one exam: the lung box on whole slices, and three windows of what the store holds."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from features.lung_box import Box, find_lung_box
from features.resample import resample_box
from features.windows import WINDOWS, apply_window
from input.contest import STUDY
from input.decoding import read_series_safely
from input.tables import load_slices
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.settings import Settings

TILE = 200  # pixels a side
GAP, HEADER = 4, 34
WIDE = (0.0, 2000.0)  # level, width: body, lungs and bone at a glance


@dataclass(frozen=True)
class PageExam:
    """What a page shows: planes and where they lie.

    hu (z, y, x) int16 as read from DICOM; z_mm (z,); spacing_mm (y, x); title in one line.
    """

    title: str
    hu: np.ndarray
    z_mm: np.ndarray
    spacing_mm: tuple[float, float]


def draw_exam(exam: str, out: Path, settings: Settings, *, columns: int = 8) -> str:
    """Read an exam's raw series, find its lung box, and draw its page.

    Args:
        exam: a folder or zip archive with DICOM files, or a StudyInstanceUID of input/prepared.
        out: the PNG to write.

    Returns:
        One line that says what was drawn.

    Raises:
        UserError: neither a readable series nor a known exam, or fewer than one column.
    """
    if columns < 1:
        raise UserError(f"--columns: expected at least 1, found {columns}")
    series = read_series_safely(_folder_of(exam, settings))
    chosen = settings.features
    box = find_lung_box(series.hu, series.spacing_mm, margin_mm=chosen.margin_mm, max_box_mm=chosen.max_box_mm)
    shown = PageExam(Path(exam).name, series.hu, series.z_mm, series.spacing_mm)
    page = draw_page(shown, box, stored_mm=chosen.spacing_mm, columns=columns)
    with atomic_path(out.with_suffix(".png")) as temporary:
        page.save(temporary)
    faults = f", {len(series.quarantined)} files not used" if series.quarantined else ""
    return f"{paths.shown(out.with_suffix('.png'))}: {_headline(shown, box, chosen.spacing_mm)}{faults}"


def _folder_of(exam: str, settings: Settings) -> Path:
    if Path(exam).expanduser().exists():
        return Path(exam).expanduser()
    slices = load_slices()
    files = slices.loc[slices[STUDY] == exam, "path"]
    if files.empty:
        raise UserError(f"{exam}: neither a folder, nor an archive, nor a StudyInstanceUID of input/prepared")
    return (settings.data_root / files.iat[0]).parent


def draw_page(exam: PageExam, box: Box, *, stored_mm: float, columns: int = 8) -> Image.Image:
    """Draw evenly spaced slices, feet to head from left to right: row 1 whole with the box, then the windows.

    Args:
        exam: the planes.
        box: the lung box in pixels of `exam`.
        stored_mm: the store's in-plane spacing; the window rows show exactly that resolution.
        columns: slices shown, at most.
    """
    columns = min(columns, len(exam.hu))
    chosen = np.linspace(0, len(exam.hu) - 1, columns).round().astype(int)
    rows = ["box", *WINDOWS]
    page = Image.new("RGB", (GAP + columns * (TILE + GAP), HEADER + len(rows) * (TILE + GAP)), "black")
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 3), _headline(exam, box, stored_mm), fill="white")
    cropped = resample_box(exam.hu[chosen], (box.y0, box.y1, box.x0, box.x1), exam.spacing_mm, stored_mm)
    for column, index in enumerate(chosen):
        left = GAP + column * (TILE + GAP)
        in_lungs = "" if box.z0 <= index < box.z1 else "  (no lung)"
        pen.text((left, 18), f"{index}: z {exam.z_mm[index]:.1f} mm{in_lungs}", fill="white")
        tiles = [_with_box(exam.hu[index], box)]
        tiles += [_grey(cropped[column], level, width) for level, width in WINDOWS.values()]
        for row, tile in enumerate(tiles):
            page.paste(_fit(tile), (left, HEADER + row * (TILE + GAP)))
    for row, name in enumerate(rows):
        pen.text((GAP + 3, HEADER + row * (TILE + GAP) + 2), name, fill="yellow")
    return page


def _headline(exam: PageExam, box: Box, stored_mm: float) -> str:
    height, width = (box.y1 - box.y0) * exam.spacing_mm[0], (box.x1 - box.x0) * exam.spacing_mm[1]
    state = "lung box" if box.found else "NO LUNGS FOUND, body box"
    return (
        f"{exam.title}: {len(exam.hu)} slices, {state} {width:.0f} x {height:.0f} mm (width x depth), "
        f"lungs in slices {box.z0}-{box.z1 - 1}, windows at {stored_mm:g} mm"
    )


def _grey(plane: np.ndarray, level: float, width: float) -> Image.Image:
    return Image.fromarray((apply_window(plane, level, width) * 255).round().astype(np.uint8)).convert("RGB")


def _with_box(plane: np.ndarray, box: Box) -> Image.Image:
    picture = _grey(plane, *WIDE)
    pen = ImageDraw.Draw(picture)
    colour = "lime" if box.found else "red"
    thick = max(1, round(max(plane.shape) / TILE))
    pen.rectangle((box.x0, box.y0, box.x1 - 1, box.y1 - 1), outline=colour, width=thick)
    pen.line((box.middle_x, box.y0, box.middle_x, box.y1 - 1), fill="orange", width=thick)
    return picture


def _fit(picture: Image.Image) -> Image.Image:
    """Scale into a square tile, keeping proportions."""
    scale = TILE / max(picture.size)
    size = tuple(max(1, round(side * scale)) for side in picture.size)
    tile = Image.new("RGB", (TILE, TILE), "black")
    tile.paste(picture.resize(size, Image.Resampling.BILINEAR), ((TILE - size[0]) // 2, (TILE - size[1]) // 2))
    return tile
