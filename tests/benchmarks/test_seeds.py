"""The benchmark over several seeds: the split of the test exams, and the table of the runs."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.seeds import against_single, format_against_single, format_results, results, split_exams
from input.contest import STUDY
from submissions.score import Truth


def test_the_public_and_private_parts_do_not_depend_on_the_order() -> None:
    exams = pd.DataFrame({STUDY: [f"{number:012x}" for number in range(300)]})
    first = split_exams(Truth(exams, pd.DataFrame()))
    again = split_exams(Truth(exams.iloc[::-1], pd.DataFrame()))
    assert sorted([*first["public"], *first["private"]]) == exams[STUDY].tolist()
    assert set(first["public"]) == set(again["public"])
    assert len(first["public"]) / 300 == pytest.approx(1 / 3, abs=0.08)


def test_a_row_compares_the_promoted_candidate_with_the_priors() -> None:
    columns = ["cv", "test", "test_low", "test_high", "test_exam_auc", "test_slice_auc", "public", "private"]
    values = {"prior": [0.5] * 4 + [0.5] * 2 + [0.5] * 2, "z_only": [0.45] * 4 + [0.5, 0.7, 0.4, 0.5]}
    values["stack"] = [0.31, 0.3, 0.28, 0.33, 0.9, 0.94, 0.29, 0.305]
    table = pd.DataFrame(list(values.values()), columns=columns).assign(candidate=list(values), seed=1)
    rows = results(table.assign(promoted=table["candidate"] == "stack"))
    row = rows.iloc[0]
    assert (row["promoted"], row["ratio"], row["z alone"]) == ("stack", pytest.approx(0.6), 0.7)
    assert row["95 %"] == "0.280-0.330" and np.isfinite(row["private"])
    assert format_results(rows).splitlines()[-1].startswith("median")


def test_pooled_exams_distinguish_a_better_candidate_from_the_best_single_network() -> None:
    generator = np.random.default_rng(0)
    losses, rows = {}, []
    for seed in (1, 2):
        single = generator.gamma(2, 0.2, 150)
        table = pd.DataFrame({"a": single, "b": single + 0.1, "stack": single - 0.04 + generator.normal(0, 0.05, 150)})
        losses[seed] = table.assign(mean=single + generator.normal(0, 0.05, 150)), np.ones(150)
        for name in losses[seed][0]:
            # Out of fold, `b` is better than `a`; on the test ground truth it is worse.
            cv = {"a": 0.4, "b": 0.35, "stack": 0.3, "mean": 0.36}[name]
            row = {"seed": seed, "candidate": name, "cv": cv, "test": losses[seed][0][name].mean()}
            rows.append(row | {"promoted": name == ("stack" if seed == 1 else "b")})
    differences = against_single(pd.DataFrame(rows), losses)
    assert (
        differences["stack", "test"].value == pytest.approx(-0.04, abs=0.01) and differences["stack", "test"].high < 0
    )
    assert differences["stack", "cv"].value == pytest.approx(differences["stack", "test"].value - 0.1)
    assert differences["promoted", "cv"].value == pytest.approx(
        -0.07, abs=0.01
    )  # seed 2 promoted the single network itself
    assert differences["mean", "test"].low < 0 < differences["mean", "test"].high
    assert ("weighted", "cv") not in differences
    assert "300 test exams pooled" in format_against_single(differences, 300)
