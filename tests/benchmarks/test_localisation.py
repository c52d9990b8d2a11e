"""The localisation benchmark counts what it says: hits of the first k places, and false places an exam."""

import numpy as np
import pandas as pd

from benchmarks.localisation import hit_rows, told_rows
from input.contest import STUDY
from submissions.bootstrap_intervals import resample_counts

#: Exam a is hit by its second place, b by its first (whose point misses), c has no PE.
PLACES = pd.DataFrame(
    [
        {STUDY: "a", "rank": 1, "probability": 0.9, "slice": False, "point": False, "foreign": False},
        {STUDY: "a", "rank": 2, "probability": 0.4, "slice": True, "point": True, "foreign": False},
        {STUDY: "b", "rank": 1, "probability": 0.6, "slice": True, "point": False, "foreign": True},
        {STUDY: "c", "rank": 1, "probability": 0.2, "slice": False, "point": False, "foreign": False},
    ]
)
POSITIVE, STUDIES = np.array(["a", "b"]), np.array(["a", "b", "c"])


def test_hits_of_the_first_places_are_shares_of_exams_with_pe():
    alone = PLACES.assign(slice=False)
    rows = hit_rows(PLACES, alone, POSITIVE, resample_counts(2, 50, 0))
    assert [(row[0], row[1], row[2][:5], row[3][:5]) for row in rows] == [
        ("slice", "1", "0.500", "0.000"),
        ("slice", "3", "1.000", "0.000"),
        ("point", "1", "0.000", "0.500"),
        ("point", "3", "0.500", "0.500"),
    ]


def test_false_places_count_over_all_exams():
    rows = told_rows(PLACES, POSITIVE, STUDIES, "slice")
    assert [(row[1], row[2][:5], row[3][:5], row[4][:5]) for row in rows] == [
        ("0.1", "1.000", "0.667", "1.000"),
        ("0.3", "1.000", "0.333", "0.000"),
        ("0.5", "0.500", "0.333", "0.000"),
    ]
