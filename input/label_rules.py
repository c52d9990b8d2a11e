"""The contest's label consistency rules, a prize condition. A label is "on" when its probability exceeds 0.5.

An exam is positive when any of its slices is on. A positive exam has exactly one RV/LV label on, at least one of
left, right and central, not both chronic labels, and neither negative nor indeterminate. Any other exam has
exactly one of negative and indeterminate on, and no other label.
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

_PE, _NO_PE = "an exam with a positive slice has", "an exam without a positive slice has"
#: Rule name -> its requirement, for messages.
RULES = {
    "exactly_one_rv_lv": f"{_PE} exactly one of {GTE_1} and {LT_1} on",
    "at_least_one_location": f"{_PE} at least one of {LEFT}, {RIGHT} and {CENTRAL} on",
    "not_both_chronic": f"{_PE} at most one of {CHRONIC} and {ACUTE_AND_CHRONIC} on",
    "pe_excludes_negative": f"{_PE} {NEGATIVE} and {INDETERMINATE} off",
    "negative_or_indeterminate": f"{_NO_PE} exactly one of {NEGATIVE} and {INDETERMINATE} on",
    "no_pe_excludes_pe_labels": f"{_NO_PE} no PE label on",
}


def violations(exams: pd.DataFrame, max_slice_probability: pd.Series | np.ndarray) -> pd.DataFrame:
    """Check every exam against every rule.

    Args:
        exams: one row per exam, with the nine label columns (probabilities or 0/1 labels).
        max_slice_probability: highest slice probability of each exam. A Series is joined by index, an array
            is in row order. NaN means no positive slice.

    Returns:
        Boolean table, True where the rule is broken: one row per exam (the index of `exams`), one column per
        rule in `RULES`.
    """
    if isinstance(max_slice_probability, pd.Series):
        max_slice_probability = max_slice_probability.reindex(exams.index)
    positive = np.asarray(max_slice_probability, dtype=float) > THRESHOLD
    on = {label: exams[label].to_numpy(dtype=float) > THRESHOLD for label in EXAM_LABELS}
    broken = {
        "exactly_one_rv_lv": positive & (on[GTE_1] == on[LT_1]),
        "at_least_one_location": positive & ~(on[LEFT] | on[RIGHT] | on[CENTRAL]),
        "not_both_chronic": positive & on[CHRONIC] & on[ACUTE_AND_CHRONIC],
        "pe_excludes_negative": positive & (on[NEGATIVE] | on[INDETERMINATE]),
        "negative_or_indeterminate": ~positive & (on[NEGATIVE] == on[INDETERMINATE]),
        "no_pe_excludes_pe_labels": ~positive & np.any([on[label] for label in POSITIVE_LABELS], axis=0),
    }
    return pd.DataFrame(broken, index=exams.index)


def count_violations(exams: pd.DataFrame, max_slice_probability: pd.Series | np.ndarray) -> int:
    """Count the exams that break at least one rule."""
    return int(violations(exams, max_slice_probability).any(axis=1).sum())
