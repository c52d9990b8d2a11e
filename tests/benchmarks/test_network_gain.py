"""The benchmark of each network's gain: the pooled metric and the sign of its difference."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.network_gain import comparison, row


def _table(exam_loss: np.ndarray, image_loss: float) -> pd.DataFrame:
    exams = len(exam_loss)
    columns = {"exam_loss": exam_loss, "exam_weight": 1.0, "image_loss": image_loss, "image_weight": 0.5}
    return pd.DataFrame(columns, index=range(exams))


@pytest.fixture
def by_seed():
    """Two seeds; the second side is better by .1 on the labels of every exam and equal on the slices."""
    loss = np.random.default_rng(0).gamma(2, 0.2, 60)
    return {
        seed: {"out of fold": (_table(loss, 0.2), _table(loss - 0.1, 0.2)), "test": (_table(loss, 0.2),) * 2}
        for seed in (1, 2)
    }


def test_the_metric_is_the_ratio_of_sums_over_all_exams(by_seed):
    first, second = by_seed[1]["out of fold"]
    _, of_first, of_second, gap = row("seed 1", [(first, second)])
    total = (first["exam_loss"].sum() + 60 * 0.2) / 90
    assert (float(of_first), float(of_second)) == (
        pytest.approx(total, abs=1e-4),
        pytest.approx(total - 1 / 15, abs=1e-4),
    )
    assert gap == "-0.0667 (-0.0667 to -0.0667)"  # the same for every exam
    assert row("", [(first, second)], "exam part")[3].startswith("-0.1000")
    assert row("", [(first, second)], "image part")[3] == "+0.0000 (+0.0000 to +0.0000)"


def test_a_row_per_seed_and_part_and_one_per_part_of_the_metric_over_all(by_seed):
    lines = comparison(("without", "with"), by_seed).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "seed 1, out of fold", "seed 1, test", "seed 2, out of fold", "seed 2, test",
        "all 240 exams, image part", "all 240 exams, exam part", "all 240 exams, metric",
    ]  # fmt: skip
    assert "-0.0333" in lines[-1]  # half of the exams gain
