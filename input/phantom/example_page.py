"""Example page of a contest tree: slices of two exams in three windows, positive slices framed."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from input.jpeg256 import CHANNELS
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json

#: Level and width of the three windows, HU.
WINDOWS = dict(zip(("lung", "PE", "mediastinum"), CHANNELS, strict=True))


def write_example_page(tree: Path, png: Path, *, slices: int = 8) -> None:
    """Write a PNG with the first exam with PE and the first without, in the lung, PE and mediastinal window.

    Args:
        tree: root of a contest tree with ground truth.
        png: path of the image.
        slices: number of columns, from head to feet.

    Raises:
        UserError: when the tree has no ground truth.
    """
    records = sorted((tree / "truth" / "exams").glob("*.json"))
    if not records:
        raise UserError(
            f"No synthetic exams: {tree}. Expected files in truth/exams. Run ./run.sh input phantom to generate them."
        )
    exams = [read_json(path) for path in records]
    chosen = [next((exam for exam in exams if any(exam["pe_present"]) == pe), None) for pe in (True, False)]
    bands = [_band(tree, exam, slices) for exam in chosen if exam is not None]
    width = max(band.shape[1] for band in bands)  # implanted exams keep the matrix of their scan
    bands = [np.pad(band, ((0, 0), (0, width - band.shape[1]), (0, 0))) for band in bands]
    with atomic_path(png) as temporary:
        Image.fromarray(np.vstack(bands)).save(temporary, format="PNG")


def _band(tree: Path, exam: dict, columns: int) -> np.ndarray:
    """Render one exam as three rows of slices, one row per window, uint8 (rows, columns, 3)."""
    from input.dicom import read_series

    series = read_series(tree / exam["split"] / exam["study"] / exam["series"])
    positive = dict(zip(exam["sops"], exam["pe_present"], strict=True))
    count = len(series.hu)
    shown = np.linspace(count - 2, 1, columns).round().astype(int)
    positive_slices = [i for i in range(count) if positive[series.sop_uids[i]]]
    if positive_slices:
        # Half of the columns show positive slices.
        ranks = np.linspace(0, len(positive_slices) - 1, columns // 2).round().astype(int)
        shown = np.sort(np.r_[shown[::2], np.array(positive_slices)[ranks]])[::-1][:columns]
    rows = []
    for name, (level, width) in WINDOWS.items():
        rows.append(
            np.hstack([_tile(series.hu[i], level, width, name, bool(positive[series.sop_uids[i]])) for i in shown])
        )
    return np.vstack(rows)


def _tile(hu: np.ndarray, level: float, width: float, name: str, marked: bool) -> np.ndarray:
    """Render a slice in one window with its caption; a positive slice (`marked`) gets a frame."""
    grey = np.clip((hu.astype(np.float32) - (level - width / 2)) / width, 0, 1) * 255
    image = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.text((4, 2), name + (" PE" if marked else ""), fill=(255, 200, 60) if marked else (160, 160, 160))
    if marked:
        pen.rectangle((0, 0, image.width - 1, image.height - 1), outline=(255, 160, 0), width=2)
    return np.asarray(image)
