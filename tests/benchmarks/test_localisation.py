"""The localisation benchmark: hits among the first k findings, and false findings per exam."""

import numpy as np
import pandas as pd

from benchmarks.localisation import hit_rows, threshold_rows
from input.contest import STUDY
from submissions.bootstrap_intervals import resample_counts

#: The second finding of exam a is a hit, the first of exam b too (but not its point), and exam c has no PE.
FINDINGS = pd.DataFrame(
    [
        {STUDY: "a", "rank": 1, "probability": 0.9, "slice": False, "point": False, "other exam": False},
        {STUDY: "a", "rank": 2, "probability": 0.4, "slice": True, "point": True, "other exam": False},
        {STUDY: "b", "rank": 1, "probability": 0.6, "slice": True, "point": False, "other exam": True},
        {STUDY: "c", "rank": 1, "probability": 0.2, "slice": False, "point": False, "other exam": False},
    ]
)
POSITIVE, STUDIES = np.array(["a", "b"]), np.array(["a", "b", "c"])


def test_hits_of_the_first_findings_are_shares_of_exams_with_pe():
    alone = FINDINGS.assign(slice=False)
    rows = hit_rows(FINDINGS, alone, POSITIVE, resample_counts(2, 50, 0))
    assert [(row[0], row[1], row[2][:5], row[3][:5]) for row in rows] == [
        ("slice", "1", "0.500", "0.000"),
        ("slice", "3", "1.000", "0.000"),
        ("point", "1", "0.000", "0.500"),
        ("point", "3", "0.500", "0.500"),
    ]


def test_false_findings_are_counted_over_all_exams():
    rows = threshold_rows(FINDINGS, POSITIVE, STUDIES, "slice")
    assert [(row[1], row[2][:5], row[3][:5], row[4][:5]) for row in rows] == [
        ("0.1", "1.000", "0.667", "1.000"),
        ("0.3", "1.000", "0.333", "0.000"),
        ("0.5", "0.500", "0.333", "0.000"),
    ]
