"""The table over several seeds: the split of the test exams, and what is told of a run."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.seeds import results, show, split_exams
from input.contest import STUDY
from submissions.score import Truth


def test_every_test_exam_is_public_or_private_and_stays_so() -> None:
    exams = pd.DataFrame({STUDY: [f"{number:012x}" for number in range(300)]})
    first = split_exams(Truth(exams, pd.DataFrame()))
    again = split_exams(Truth(exams.iloc[::-1], pd.DataFrame()))
    assert sorted([*first["public"], *first["private"]]) == exams[STUDY].tolist()
    assert set(first["public"]) == set(again["public"])
    assert len(first["public"]) / 300 == pytest.approx(1 / 3, abs=0.08)


def test_a_row_tells_the_promoted_candidate_beside_the_priors() -> None:
    columns = ["cv", "test", "test_low", "test_high", "test_exam_auc", "test_slice_auc", "public", "private"]
    values = {"prior": [0.5] * 4 + [0.5] * 2 + [0.5] * 2, "z_only": [0.45] * 4 + [0.5, 0.7, 0.4, 0.5]}
    values["stack"] = [0.31, 0.3, 0.28, 0.33, 0.9, 0.94, 0.29, 0.305]
    table = pd.DataFrame(list(values.values()), columns=columns).assign(candidate=list(values), seed=1)
    found = results(table.assign(promoted=table["candidate"] == "stack"))
    row = found.iloc[0]
    assert (row["promoted"], row["ratio"], row["z alone"]) == ("stack", pytest.approx(0.6), 0.7)
    assert row["95 %"] == "0.280-0.330" and np.isfinite(row["private"])
    assert show(found).splitlines()[-1].startswith("median")
