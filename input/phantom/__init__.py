"""The embedded contest: synthetic CT pulmonary angiograms with the contest's labels, files and quirks.

Takes the [phantom] settings and a seed; makes a contest tree (DICOM, CSVs) plus its truth. No real
patient is in it, so a score on it says that the pipeline works and nothing about patients. `implant` puts
drawn clots into a user's real PE-negative scans instead. `draw_contest` and `draw_page` are what the
input stage's commands call; every later stage reads the tree like the contest's own.
"""

from input.phantom.example_page import draw_page
from input.phantom.synthetic_contest import draw_contest

__all__ = ["draw_contest", "draw_page"]
