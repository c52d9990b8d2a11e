"""Cases of the evidence report on disk."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.acceptance_rules import Acceptance, Reason
from inference.evidence.stored_cases import read_case, write_case
from tests.support.evidence_cases import two_cases, with_clot


def assert_equal(first: Any, second: Any) -> None:
    """Compare values of a case, with NaN equal to NaN."""
    if isinstance(first, pd.DataFrame):
        pd.testing.assert_frame_equal(first, second)
    elif isinstance(first, pd.Series):
        pd.testing.assert_series_equal(first, second)
    elif dataclasses.is_dataclass(first):
        assert type(first) is type(second)
        for field in dataclasses.fields(first):
            assert_equal(getattr(first, field.name), getattr(second, field.name))
    elif isinstance(first, tuple) and first and dataclasses.is_dataclass(first[0]):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_equal(one, other)
    else:
        np.testing.assert_equal(second, first)


@pytest.mark.parametrize("number", [0, 1])
def test_a_case_is_read_as_it_was_written(tmp_path: Path, number: int) -> None:
    case = two_cases()[number]
    case = with_clot(case, plane=7) if number == 0 else case
    reasons = (Reason("lungs", "no lungs found", True), Reason("noise", "strong noise"))[: 2 * number]
    case = dataclasses.replace(case, acceptance=Acceptance(reasons), force_labels=number == 1)
    write_case(tmp_path, case, series_uid="1.2")
    restored, facts = read_case(tmp_path, case.name)
    assert_equal(case, restored)
    assert facts == {"series_uid": "1.2"}
