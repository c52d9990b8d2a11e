"""The submission file: the contest's format, order and rounding."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from input.contest import EXAM_LABELS, SERIES, SOP, STUDY
from input.contest_tree import submission_ids
from pipeline.errors import UserError
from submissions.kaggle_csv import (
    layout_of,
    read_layout,
    read_rows,
    rounded,
    to_series,
    to_tables,
    write_submission,
)

SLICES = pd.DataFrame({STUDY: ["bbb", "bbb", "aaa"], SOP: ["s2", "s1", "s3"], "label": [0.25, 0.75, 0.1]})
TEST = SLICES.assign(**{SERIES: SLICES[STUDY] + "1"})[[STUDY, SERIES, SOP]]


def exams_of(slices: pd.DataFrame, value: float = 0.3) -> pd.DataFrame:
    exams = pd.DataFrame({STUDY: slices[STUDY].unique()})
    return exams.assign(**{label: value + 0.01 * number for number, label in enumerate(EXAM_LABELS)})


def test_the_file_is_written_byte_for_byte(tmp_path: Path) -> None:
    slices = SLICES.iloc[:1]
    write_submission(tmp_path / "a.csv", exams_of(slices), slices, layout_of(slices))
    assert (tmp_path / "a.csv").read_bytes() == (
        b"id,label\nbbb_negative_exam_for_pe,0.300000\nbbb_rv_lv_ratio_gte_1,0.310000\nbbb_rv_lv_ratio_lt_1,0.320000\n"
        b"bbb_leftsided_pe,0.330000\nbbb_chronic_pe,0.340000\nbbb_rightsided_pe,0.350000\n"
        b"bbb_acute_and_chronic_pe,0.360000\nbbb_central_pe,0.370000\nbbb_indeterminate,0.380000\ns2,0.250000\n"
    )


def test_the_order_of_the_sample_is_kept(tmp_path: Path) -> None:
    ids = list(submission_ids(SLICES))[::-1]
    TEST.to_csv(tmp_path / "test.csv", index=False)
    pd.DataFrame({"id": ids, "label": 0.5}).to_csv(tmp_path / "sample_submission.csv", index=False)
    layout = read_layout(tmp_path)
    write_submission(tmp_path / "a.csv", exams_of(SLICES), SLICES.iloc[::-1], layout)
    assert list(read_rows(tmp_path / "a.csv")["id"]) == ids


def test_a_sample_that_contradicts_test_csv_is_an_error(tmp_path: Path) -> None:
    TEST.to_csv(tmp_path / "test.csv", index=False)
    ids = [*submission_ids(SLICES)[1:], "unknown-id"]
    pd.DataFrame({"id": ids, "label": 0.5}).to_csv(tmp_path / "sample_submission.csv", index=False)
    with pytest.raises(UserError, match="bbb_negative_exam_for_pe") as fault:
        read_layout(tmp_path)
    assert "unknown-id" in str(fault.value)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"", "got nothing"),
        (b"StudyInstanceUID,SOPInstanceUID\na,b\n", "missing columns SeriesInstanceUID"),
        (TEST.to_csv(index=False).encode() + b'"a,b,c\n', "unreadable: Error tokenizing data"),
        (TEST.to_csv(index=False).encode("utf-16"), "unreadable: 'utf-8' codec"),
        (TEST.to_csv(index=False).encode() + b",aaa1,s4\n", "1 rows with an empty or invalid StudyInstanceUID"),
        (TEST.to_csv(index=False).encode() + b"aaa,aaa1,s3\n", "1 duplicate SOPInstanceUID, first in line 5"),
        (TEST.to_csv(index=False).encode().splitlines(keepends=True)[0], "has no rows"),
    ],
)
def test_an_unusable_test_csv_is_reported_with_its_fault(tmp_path: Path, data: bytes, fault: str) -> None:
    (tmp_path / "test.csv").write_bytes(data)
    with pytest.raises(UserError, match=f"test.csv.*{fault}") as fault_info:
        read_layout(tmp_path)
    assert "Expected the columns StudyInstanceUID" in str(fault_info.value)


def test_writing_joins_by_id_and_can_be_read_back(tmp_path: Path) -> None:
    exams = exams_of(SLICES)
    exams.loc[0, "central_pe"] = 0.9
    write_submission(tmp_path / "a.csv", exams.iloc[::-1], SLICES.sample(frac=1, random_state=1), layout_of(SLICES))
    values = read_rows(tmp_path / "a.csv").set_index("id")["label"].astype(float)
    exams_again, slices = to_tables(values, SLICES)
    pd.testing.assert_frame_equal(exams_again, exams, check_dtype=False, atol=1e-9)
    assert slices["label"].tolist() == [0.25, 0.75, 0.1]


def test_incomplete_predictions_are_listed_and_nothing_is_written(tmp_path: Path) -> None:
    exams = exams_of(SLICES)
    exams.loc[0, "central_pe"] = np.nan
    slices = pd.concat([SLICES.iloc[:2], SLICES.iloc[:1]])
    with pytest.raises(UserError) as fault:
        write_submission(tmp_path / "a.csv", exams, slices, layout_of(SLICES))
    assert "bbb_central_pe" in str(fault.value) and "predicted twice, e.g. s2" in str(fault.value)
    assert not list(tmp_path.iterdir())


@given(
    st.one_of(st.floats(0, 1), st.floats(0.499999, 0.500001), st.sampled_from([0.5, np.nextafter(0.5, 1), 0.0, 1.0]))
)
def test_rounding_never_violates_a_rule(probability: float) -> None:
    written = float(f"{rounded(np.array([probability]))[0]:.6f}")
    assert (written > 0.5) == (probability > 0.5)
    assert 0 < written < 1
    assert abs(written - probability) <= 1.0001e-6


def test_series_and_tables_are_inverse() -> None:
    values = to_series(exams_of(SLICES), SLICES)
    again = to_series(*to_tables(values, SLICES))
    pd.testing.assert_series_equal(values.sort_index(), again.sort_index(), check_dtype=False, check_names=False)
