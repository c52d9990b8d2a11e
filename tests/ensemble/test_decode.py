"""The decoder: it never violates a rule, and no cheaper submission exists."""

import itertools

import numpy as np
import pandas as pd
import pytest

from ensemble.binary_targets import PE, TARGETS, label_probabilities
from ensemble.decode import EXPECTED_Q, MARGIN, decode, expected_cost
from input.contest import EXAM_LABELS, EXAM_WEIGHTS, IMAGE_WEIGHT, NEGATIVE, SOP, STUDY
from input.label_rules import count_violations, violations
from input.metric import log_loss
from pipeline.errors import UserError


def random_predictions(exams: int, slices: int, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Incoherent probabilities with many values at and around 0.5, 0 and 1; slices shuffled."""
    generator = np.random.default_rng(seed)
    values = generator.choice([0.0, 0.5, 0.49995, 0.50005, 1.0], (exams, len(EXAM_LABELS)))
    values = np.where(generator.random(values.shape) < 0.8, generator.random(values.shape), values)
    exam_table = pd.DataFrame(values, columns=list(EXAM_LABELS))
    exam_table.insert(0, STUDY, [f"{number:012x}" for number in range(exams)])
    exam_table[EXPECTED_Q] = generator.random(exams) * 0.5
    owner = generator.permutation(np.repeat(np.arange(exams), slices))
    scale = generator.choice([0.3, 1.0], len(owner))
    slice_table = pd.DataFrame(
        {STUDY: exam_table[STUDY].to_numpy()[owner], "label": generator.random(len(owner)) * scale}
    )
    return exam_table, slice_table


def max_slice_probability(slices: pd.DataFrame, exams: pd.DataFrame) -> np.ndarray:
    return slices.groupby(STUDY)["label"].max().reindex(exams[STUDY]).to_numpy()


def test_no_violation_in_100_000_random_predictions() -> None:
    exams, slices = decode(*random_predictions(100_000, 3, seed=1))
    assert count_violations(exams, max_slice_probability(slices, exams)) == 0
    assert exams[list(EXAM_LABELS)].to_numpy().min() >= 0 and slices["label"].max() <= 1


def test_rounding_to_six_digits_violates_no_rule() -> None:
    exams, slices = decode(*random_predictions(5_000, 4, seed=2))
    exams[list(EXAM_LABELS)] = exams[list(EXAM_LABELS)].round(6)
    slices["label"] = slices["label"].astype(np.float32).round(6)
    assert count_violations(exams, max_slice_probability(slices, exams)) == 0
    values = exams[list(EXAM_LABELS)].to_numpy()
    assert np.abs(values - 0.5).min() > MARGIN / 2


def brute_force_cost(exam: pd.Series, slices: np.ndarray) -> float:
    """The lowest cost of all on/off patterns of nine labels and slices that obey the rules."""
    weights = np.array([*EXAM_WEIGHTS.values(), *[IMAGE_WEIGHT * exam[EXPECTED_Q]] * len(slices)])
    p = np.concatenate([exam[list(EXAM_LABELS)].to_numpy(float), slices])
    patterns = np.array(list(itertools.product([False, True], repeat=len(p))))
    values = np.where(patterns, np.maximum(p, 0.5 + MARGIN), np.minimum(p, 0.5 - MARGIN))
    labels = pd.DataFrame(values[:, :9], columns=list(EXAM_LABELS))
    is_valid = ~violations(labels, values[:, 9:].max(axis=1)).any(axis=1).to_numpy()
    cost = weights * (p * log_loss(np.ones_like(values), values) + (1 - p) * log_loss(np.zeros_like(values), values))
    return float(cost.sum(axis=1)[is_valid].min() / weights.sum())


@pytest.mark.parametrize("seed", range(30))
def test_no_cheaper_valid_submission_exists(seed: int) -> None:
    exams, slices = random_predictions(1, 1 + seed % 4, seed)
    decoded = decode(exams, slices)
    expected = brute_force_cost(exams.iloc[0], slices["label"].to_numpy())
    assert expected_cost(exams, slices, *decoded) == pytest.approx(expected, abs=1e-9)


def test_valid_predictions_are_unchanged() -> None:
    probabilities = {target: np.array([0.9, 0.02]) for target in TARGETS}
    probabilities |= {"indeterminate": np.array([0.1, 0.1]), "chronic_pe": np.array([0.1, 0.1])}
    exams = label_probabilities(probabilities).assign(**{STUDY: ["a", "b"]})
    slices = pd.DataFrame({STUDY: ["b", "a", "a"], SOP: ["3", "1", "2"], "label": [0.1, 0.8, 0.2]})
    decoded_exams, decoded_slices = decode(exams, slices)
    np.testing.assert_allclose(decoded_exams[list(EXAM_LABELS)], exams[list(EXAM_LABELS)], atol=1e-12)
    pd.testing.assert_frame_equal(decoded_slices, slices)


def test_an_exam_without_slices_is_not_positive() -> None:
    exams = label_probabilities({target: np.array([0.9]) for target in TARGETS}).assign(**{STUDY: ["a"]})
    decoded, _ = decode(exams, pd.DataFrame({STUDY: [], "label": []}))
    assert decoded[NEGATIVE].item() > 0.5 or decoded["indeterminate"].item() > 0.5
    assert count_violations(decoded, np.array([np.nan])) == 0


def test_the_decoding_cost_of_sharp_calibrated_predictions_is_below_half_a_thousandth() -> None:
    """As sharp as the contest's best: P(PE) is close to 0 or 1 for most exams."""
    generator = np.random.default_rng(5)
    count = 4_000
    probabilities = {target: generator.beta(0.3, 0.5, count) for target in TARGETS}
    probabilities[PE] = generator.beta(0.05, 0.1, count)
    probabilities["indeterminate"] = generator.beta(0.05, 2.0, count)
    probabilities["rightsided_pe"] = generator.beta(4, 0.3, count)
    exams = label_probabilities(probabilities).assign(**{STUDY: np.arange(count).astype(str)})
    owner = np.repeat(np.arange(count), 20)
    labels = generator.beta(0.3, 0.7, len(owner)) * probabilities[PE][owner] ** 0.3
    slices = pd.DataFrame({STUDY: exams[STUDY].to_numpy()[owner], "label": labels})
    cost = expected_cost(exams, slices, *decode(exams, slices)) - expected_cost(exams, slices, exams, slices)
    assert 0 <= cost < 5e-4


def test_all_unusable_predictions_are_reported() -> None:
    exams, slices = random_predictions(3, 2, seed=0)
    exams.loc[0, NEGATIVE] = np.nan
    slices.loc[0, "label"] = 1.2
    with pytest.raises(UserError, match="1 exam probabilities.*\n.*1 slice probabilities"):
        decode(exams, slices)


@pytest.mark.parametrize("broken", [np.nan, -0.1, 1.1])
def test_an_expected_q_outside_its_range_is_an_error(broken: float) -> None:
    exams, slices = random_predictions(3, 4, seed=2)
    exams.loc[1, EXPECTED_Q] = broken
    with pytest.raises(UserError, match="1 values of expected_q are NaN or outside"):
        decode(exams, slices)
