"""The synthetic contest: CT pulmonary angiograms with the contest's labels, file layout and DICOM quirks.

Input: the [phantom] settings and a seed. Output: a contest tree (DICOM, CSV) and its ground truth. No real patient
is in it, so a score on it shows that the pipeline works and says nothing about patients. `generate_contest` and
`write_example_page` are called by the commands of the input stage; later stages read the tree like the real one.
`input.implant` puts synthetic clots into a user's own PE-negative scans instead.
"""

from input.phantom.example_page import write_example_page
from input.phantom.synthetic_contest import generate_contest

__all__ = ["generate_contest", "write_example_page"]
