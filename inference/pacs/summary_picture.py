"""The summary picture of one exam: its likeliest slice, the nine probabilities, and what they are not for.

No name, identifier or date of a patient is drawn into it.
"""

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from features.windows import WINDOWS, apply_window
from input.contest import EXAM_LABELS
from submissions.software_name import RESEARCH_USE_ONLY

SIDE = 640  # pixels of the slice, and the picture's height below its title
PANEL = 560  # pixels of the table beside it
TITLE = 64
_INK, _DIM, _YES, _WARN = (235, 235, 235), (150, 150, 150), (255, 176, 59), (255, 99, 99)


def summary_picture(
    plane: np.ndarray, caption: str, labels: pd.Series, measured: dict[str, float], lines: list[str]
) -> np.ndarray:
    """Draw the picture, uint8 (y, x, 3).

    Args:
        plane: HU (y, x) of the key slice, +x the patient's left.
        caption: under the slice.
        labels: the nine probabilities; above 0.5 they are marked.
        measured: what was measured, name -> value; may be empty.
        lines: what else has to be said (algorithm, version, synthetic training).
    """
    picture = Image.new("RGB", (SIDE + PANEL, TITLE + SIDE), "black")
    picture.paste(_slice(plane), (0, TITLE))
    pen = ImageDraw.Draw(picture)
    pen.text((16, 12), "Pulmonary embolism: ensemble of networks", fill=_INK, font=_font(24))
    pen.text((SIDE + PANEL - 16, 18), RESEARCH_USE_ONLY.upper(), fill=_WARN, font=_font(17), anchor="ra")
    pen.text((12, TITLE + SIDE - 28), caption, fill=_INK, font=_font(17), stroke_width=2, stroke_fill="black")
    pen.text((12, TITLE + SIDE // 2), "R", fill=_DIM, font=_font(20))
    pen.text((SIDE - 24, TITLE + SIDE // 2), "L", fill=_DIM, font=_font(20))
    bottom = _table(pen, labels, TITLE + 8)
    for name, value in measured.items():
        pen.text((SIDE + 20, bottom), name, fill=_INK, font=_font(16))
        pen.text((SIDE + PANEL - 20, bottom), f"{value:.2f}", fill=_INK, font=_font(16), anchor="ra")
        bottom += 24
    bottom = TITLE + SIDE - 12 - 20 * len(lines)
    for line in lines:
        pen.text((SIDE + 20, bottom), line, fill=_DIM, font=_font(14))
        bottom += 20
    return np.asarray(picture)


def _slice(plane: np.ndarray) -> Image.Image:
    grey = (apply_window(plane, *WINDOWS["pe"]) * 255).round().astype(np.uint8)
    scale = SIDE / max(plane.shape)
    height, width = (max(1, round(side * scale)) for side in plane.shape)
    square = Image.new("L", (SIDE, SIDE))
    drawn = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
    square.paste(drawn, ((SIDE - width) // 2, (SIDE - height) // 2))
    return square.convert("RGB")


def _table(pen: ImageDraw.ImageDraw, labels: pd.Series, top: int) -> int:
    """A line and a bar a label; where the next line may stand."""
    left, right, bar = SIDE + 20, SIDE + PANEL - 20, SIDE + 300
    for label in EXAM_LABELS:
        probability = float(labels[label])
        colour = _YES if probability > 0.5 else _INK
        pen.text((left, top), label, fill=colour, font=_font(18))
        pen.rectangle((bar, top + 4, right - 64, top + 18), outline=_DIM)
        pen.rectangle((bar, top + 4, bar + probability * (right - 64 - bar), top + 18), fill=colour)
        pen.text((right, top), f"{probability:.3f}", fill=colour, font=_font(18), anchor="ra")
        top += 34
    return top + 10


def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
