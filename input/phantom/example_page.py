"""One page of a contest tree: slices of some exams in three windows, positive ones marked."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from input.jpeg256 import CHANNELS
from pipeline.errors import UserError
from pipeline.files import atomic_path, read_json

#: Level and width of the three windows of the page, HU.
WINDOWS = dict(zip(("lung", "PE", "mediastinum"), CHANNELS, strict=True))


def draw_page(tree: Path, png: Path, *, slices: int = 8) -> None:
    """Write one PNG page: the first positive exam and the first negative one, `slices` columns, three windows.

    Args:
        tree: a tree that `draw_contest` finished.
        png: where the page goes.
        slices: columns of the page, evenly spread from head to feet.
    """
    records = sorted((tree / "truth" / "exams").glob("*.json"))
    if not records:
        raise UserError(f"{tree}: no drawn exams here; ./run.sh --to input draws them")
    exams = [read_json(path) for path in records]
    chosen = [next((e for e in exams if bool(sum(e["pe_present"])) == kind), None) for kind in (True, False)]
    bands = [_band(tree, exam, slices) for exam in chosen if exam is not None]
    width = max(band.shape[1] for band in bands)  # implanted exams keep their scan's matrix
    bands = [np.pad(band, ((0, 0), (0, width - band.shape[1]), (0, 0))) for band in bands]
    with atomic_path(png) as temporary:
        Image.fromarray(np.vstack(bands)).save(temporary, format="PNG")


def _band(tree: Path, exam: dict, columns: int) -> np.ndarray:
    from input.dicom import read_series

    series = read_series(tree / exam["split"] / exam["study"] / exam["series"])
    positive = dict(zip(exam["sops"], exam["pe_present"], strict=True))
    count = len(series.hu)
    picked = np.linspace(count - 2, 1, columns).round().astype(int)
    found = [i for i in range(count) if positive[series.sop_uids[i]]]
    if found:
        # Half of the columns show positive slices, so that the page shows what is looked for.
        places = np.linspace(0, len(found) - 1, columns // 2).round().astype(int)
        picked = np.sort(np.r_[picked[::2], np.array(found)[places]])[::-1][:columns]
    rows = []
    for name, (level, width) in WINDOWS.items():
        rows.append(
            np.hstack([_tile(series.hu[i], level, width, name, bool(positive[series.sop_uids[i]])) for i in picked])
        )
    return np.vstack(rows)


def _tile(hu: np.ndarray, level: float, width: float, name: str, marked: bool) -> np.ndarray:
    grey = np.clip((hu.astype(np.float32) - (level - width / 2)) / width, 0, 1) * 255
    image = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    pen = ImageDraw.Draw(image)
    pen.text((4, 2), name + (" PE" if marked else ""), fill=(255, 200, 60) if marked else (160, 160, 160))
    if marked:
        pen.rectangle((0, 0, image.width - 1, image.height - 1), outline=(255, 160, 0), width=2)
    return np.asarray(image)
