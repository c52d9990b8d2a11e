"""The summary image of one exam: its likeliest slice, the nine probabilities, measurements, and a research-use notice.

It contains no name, identifier or date of a patient.
"""

import textwrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from features.acceptance_rules import Outcome
from features.windows import WINDOWS, apply_window
from inference.measurement_titles import MEASUREMENT_TITLES
from input.contest import EXAM_LABELS, LABEL_TITLES
from submissions.software_name import RESEARCH_USE_ONLY

#: Size of the slice, and height of the image below its title, in pixels.
SIDE = 640
#: Width of the table beside the slice, in pixels.
PANEL = 560
#: Characters per line of the panel.
WRAPPED = 62
#: Height of the title, in pixels.
TITLE = 64
_TEXT, _DIMMED, _POSITIVE, _WARNING = (235, 235, 235), (150, 150, 150), (255, 176, 59), (255, 99, 99)


def summary_image(
    plane: np.ndarray,
    caption: str,
    labels: dict[str, float],
    measured: dict[str, float],
    lines: list[str],
    acceptance: str,
) -> np.ndarray:
    """Draw the summary image.

    Args:
        plane: HU (y, x) of the key slice, +x the patient's left.
        caption: shown below the slice.
        labels: the nine probabilities; those above 0.5 are highlighted; empty if they are withheld.
        measured: column of the store's exam table -> value; may be empty.
        lines: further lines of text (algorithm, version, synthetic training).
        acceptance: whether the exam can be assessed, with reasons.

    Returns:
        uint8 (y, x, 3), RGB.
    """
    image = Image.new("RGB", (SIDE + PANEL, TITLE + SIDE), "black")
    image.paste(_slice(plane), (0, TITLE))
    draw = ImageDraw.Draw(image)
    draw.text((16, 12), "Pulmonary embolism: ensemble of networks", fill=_TEXT, font=_font(24))
    draw.text((SIDE + PANEL - 16, 18), RESEARCH_USE_ONLY.upper(), fill=_WARNING, font=_font(17), anchor="ra")
    draw.text((12, TITLE + SIDE - 28), caption, fill=_TEXT, font=_font(17), stroke_width=2, stroke_fill="black")
    draw.text((12, TITLE + SIDE // 2), "R", fill=_DIMMED, font=_font(20))
    draw.text((SIDE - 24, TITLE + SIDE // 2), "L", fill=_DIMMED, font=_font(20))
    bottom = _draw_labels(draw, labels, TITLE + 8) if labels else TITLE + 8
    colour = _TEXT if acceptance.endswith(f" {Outcome.ASSESSABLE}") else _WARNING
    for line in textwrap.wrap(acceptance, WRAPPED):
        draw.text((SIDE + 20, bottom), line, fill=colour, font=_font(16))
        bottom += 24
    for column, value in measured.items():
        text = f"{value:.1f} mm" if column.endswith("_mm") else f"{value:.2f}"
        draw.text((SIDE + 20, bottom), MEASUREMENT_TITLES[column], fill=_TEXT, font=_font(16))
        draw.text((SIDE + PANEL - 20, bottom), text, fill=_TEXT, font=_font(16), anchor="ra")
        bottom += 24
    bottom = TITLE + SIDE - 12 - 20 * len(lines)
    for line in lines:
        draw.text((SIDE + 20, bottom), line, fill=_DIMMED, font=_font(14))
        bottom += 20
    return np.asarray(image)


def _slice(plane: np.ndarray) -> Image.Image:
    """The slice in the PE window, fitted into a square."""
    grey = (apply_window(plane, *WINDOWS["pe"]) * 255).round().astype(np.uint8)
    scale = SIDE / max(plane.shape)
    height, width = (max(1, round(size * scale)) for size in plane.shape)
    square = Image.new("L", (SIDE, SIDE))
    resized = Image.fromarray(grey).resize((width, height), Image.Resampling.BILINEAR)
    square.paste(resized, ((SIDE - width) // 2, (SIDE - height) // 2))
    return square.convert("RGB")


def _draw_labels(draw: ImageDraw.ImageDraw, labels: dict[str, float], top: int) -> int:
    """Draw one line with a bar per label; returns the y position below them."""
    left, right, bar = SIDE + 20, SIDE + PANEL - 20, SIDE + 300
    for label in EXAM_LABELS:
        probability = labels[label]
        colour = _POSITIVE if probability > 0.5 else _TEXT
        draw.text((left, top), LABEL_TITLES[label], fill=colour, font=_font(18))
        draw.rectangle((bar, top + 4, right - 64, top + 18), outline=_DIMMED)
        draw.rectangle((bar, top + 4, bar + probability * (right - 64 - bar), top + 18), fill=colour)
        draw.text((right, top), f"{probability:.3f}", fill=colour, font=_font(18), anchor="ra")
        top += 34
    return top + 10


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
