"""The contest's label-consistency rules, a prize condition ("on" means a probability above 0.5).

An exam is positive when any of its slices is on. Then exactly one RV/LV label is on, at least one of
left, right and central, not both chronic labels, and neither negative nor indeterminate. Any other
exam has exactly one of negative and indeterminate on, and nothing else.
Source: the contest's evaluation page, "label consistency requirements".
"""

import numpy as np
import pandas as pd

from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    EXAM_LABELS,
    GTE_1,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    POSITIVE_LABELS,
    RIGHT,
)

THRESHOLD = 0.5

#: Rule name -> what it demands, for messages.
RULES = {
    "one_rv_lv": "an exam with a positive slice has exactly one of rv_lv_ratio_gte_1 and rv_lv_ratio_lt_1 on",
    "a_side": "an exam with a positive slice has at least one of leftsided, rightsided and central PE on",
    "one_chronicity": "an exam with a positive slice has chronic_pe and acute_and_chronic_pe not both on",
    "positive_excludes": "an exam with a positive slice has negative_exam_for_pe and indeterminate off",
    "one_of_no_pe": "an exam without a positive slice has exactly one of negative_exam_for_pe and indeterminate on",
    "no_pe_excludes": "an exam without a positive slice has no label of PE on",
}


def violations(exams: pd.DataFrame, max_slice_probability: pd.Series | np.ndarray) -> pd.DataFrame:
    """Tell which rules each exam breaks.

    Args:
        exams: a row an exam, with the nine label columns (probabilities or 0/1 labels).
        max_slice_probability: the highest slice probability of each exam; a Series is joined by
            index, an array is taken in the rows' order. NaN counts as no positive slice.

    Returns:
        Booleans, a row an exam (the index of `exams`), a column a rule of `RULES`.
    """
    if isinstance(max_slice_probability, pd.Series):
        max_slice_probability = max_slice_probability.reindex(exams.index)
    positive = np.asarray(max_slice_probability, dtype=float) > THRESHOLD
    on = {label: exams[label].to_numpy(dtype=float) > THRESHOLD for label in EXAM_LABELS}
    broken = {
        "one_rv_lv": positive & (on[GTE_1] == on[LT_1]),
        "a_side": positive & ~(on[LEFT] | on[RIGHT] | on[CENTRAL]),
        "one_chronicity": positive & on[CHRONIC] & on[ACUTE_AND_CHRONIC],
        "positive_excludes": positive & (on[NEGATIVE] | on[INDETERMINATE]),
        "one_of_no_pe": ~positive & (on[NEGATIVE] == on[INDETERMINATE]),
        "no_pe_excludes": ~positive & np.any([on[label] for label in POSITIVE_LABELS], axis=0),
    }
    return pd.DataFrame(broken, index=exams.index)


def count_violations(exams: pd.DataFrame, max_slice_probability: pd.Series | np.ndarray) -> int:
    """The number of exams that break at least one rule."""
    return int(violations(exams, max_slice_probability).any(axis=1).sum())
