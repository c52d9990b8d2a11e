"""Preview page of one exam: whole slices with the lung box, and the stored pixels in three windows."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from features.lung_box import Box, find_lung_box
from features.resample import resample_box
from features.windows import WINDOWS, apply_window
from input.contest import STUDY
from input.safe_decoding import read_series_safely
from input.tables import load_slices
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import atomic_path
from pipeline.settings import Settings

TILE = 200  # side of a tile, in pixels
GAP, HEADER = 4, 34
WIDE = (0.0, 2000.0)  # level and width in HU; shows body, lungs and bone together


@dataclass(frozen=True)
class PreviewExam:
    """The planes of an exam and their geometry.

    Attributes:
        title: one line.
        hu: (z, y, x) int16 as read from DICOM.
        z_mm: (z,) positions.
        spacing_mm: (y, x) pixel spacing.
    """

    title: str
    hu: np.ndarray
    z_mm: np.ndarray
    spacing_mm: tuple[float, float]


def write_preview(exam: str, out: Path, settings: Settings, *, columns: int = 8) -> str:
    """Read an exam's raw series, find its lung box and write the preview page.

    Args:
        exam: a folder or zip archive with DICOM files, or a StudyInstanceUID of input/prepared.
        out: the PNG to write; its suffix is replaced by .png.
        settings: resolved settings; [features] gives margin, box size and spacing.
        columns: slices shown.

    Returns:
        One line that describes the page.

    Raises:
        UserError: neither a readable series nor a known exam, or fewer than one column.
    """
    if columns < 1:
        raise UserError(f"--columns: expected at least 1, got {columns}")
    series = read_series_safely(_source_of(exam, settings))
    features = settings.features
    box = find_lung_box(series.hu, series.spacing_mm, margin_mm=features.margin_mm, max_box_mm=features.max_box_mm)
    preview = PreviewExam(Path(exam).name, series.hu, series.z_mm, series.spacing_mm)
    page = draw_preview(preview, box, stored_mm=features.spacing_mm, columns=columns)
    png = out.with_suffix(".png")
    with atomic_path(png) as temporary:
        page.save(temporary)
    skipped = f", {len(series.quarantined)} files not used" if series.quarantined else ""
    return f"{paths.shown(png)}: {_headline(preview, box, features.spacing_mm)}{skipped}"


def _source_of(exam: str, settings: Settings) -> Path:
    if Path(exam).expanduser().exists():
        return Path(exam).expanduser()
    slices = load_slices()
    files = slices.loc[slices[STUDY] == exam, "path"]
    if files.empty:
        raise UserError(
            f"Exam not found: {exam}. Expected a folder, a zip archive or a StudyInstanceUID of input/prepared, got "
            "neither a folder nor an archive nor a known UID"
        )
    return (settings.data_root / files.iat[0]).parent


def draw_preview(exam: PreviewExam, box: Box, *, stored_mm: float, columns: int = 8) -> Image.Image:
    """Draw evenly spaced slices, feet to head from left to right: the whole slices with the box, then the windows.

    Args:
        exam: the planes.
        box: the lung box in pixels of `exam`.
        stored_mm: the store's in-plane spacing; the window rows show exactly that resolution.
        columns: largest number of slices shown.
    """
    columns = min(columns, len(exam.hu))
    indices = np.linspace(0, len(exam.hu) - 1, columns).round().astype(int)
    rows = ["box", *WINDOWS]
    page = Image.new("RGB", (GAP + columns * (TILE + GAP), HEADER + len(rows) * (TILE + GAP)), "black")
    pen = ImageDraw.Draw(page)
    pen.text((GAP, 3), _headline(exam, box, stored_mm), fill="white")
    cropped = resample_box(exam.hu[indices], (box.y0, box.y1, box.x0, box.x1), exam.spacing_mm, stored_mm)
    for column, index in enumerate(indices):
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


def _headline(exam: PreviewExam, box: Box, stored_mm: float) -> str:
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
    """Scale a picture into a square tile, keeping its proportions."""
    scale = TILE / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    tile = Image.new("RGB", (TILE, TILE), "black")
    tile.paste(picture.resize((width, height), Image.Resampling.BILINEAR), ((TILE - width) // 2, (TILE - height) // 2))
    return tile
