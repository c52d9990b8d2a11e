"""The exam networks of `models.exam_network` in NumPy: predictions need neither Keras nor TensorFlow.

They are small, so NumPy on stored arrays is as fast as an inference engine, loads in milliseconds, and does not depend
on the number of exams per call. Equal to Keras within 1e-5 (tested).
"""

from collections.abc import Callable, Sequence

import numpy as np
from scipy.special import erf, expit

from pipeline.errors import UserError

#: `sequence` (batch, length, features), `inside` (batch, length, 1) -> logits `slices` (batch, length, 1) and `exams`
#: (batch, 9).
ExamForward = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
#: Keras's default of LayerNormalization.
EPSILON = 1e-3
#: Added to scores and states outside the exam.
OUTSIDE = -1e4
BLOCKS = 2


class _Weights:
    """The weights of a network, taken in the order of its variables."""

    def __init__(self, arrays: Sequence[np.ndarray]) -> None:
        self._arrays = iter([array for array in arrays if array.dtype.kind == "f"])  # the others are random seeds

    def take(self, count: int) -> list[np.ndarray]:
        """Take the next arrays."""
        arrays = [array for _, array in zip(range(count), self._arrays, strict=False)]
        if len(arrays) < count:
            raise UserError("weights of another exam network: too few arrays. Train it again: ./run.sh --from models")
        return arrays

    def finish(self) -> None:
        """Check that no array is left."""
        if next(self._arrays, None) is not None:
            raise UserError("weights of another exam network: too many arrays. Train it again: ./run.sh --from models")


def exam_forward(kind: str, arrays: Sequence[np.ndarray]) -> ExamForward:
    """Build the forward pass of an exam network.

    Args:
        kind: A key of STATES.
        arrays: The variables of the Keras network, in order.

    Raises:
        UserError: The arrays belong to another network.
    """
    weights = _Weights(arrays)
    project, project_bias = weights.take(2)
    states_of = STATES[kind](weights)
    score, score_bias, exams, exams_bias, slices, slices_bias = weights.take(6)
    weights.finish()

    def run(sequence: np.ndarray, inside: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(batch, positions, inputs) and (batch, positions, 1) -> logits of positions and of exams."""
        projected = np.maximum(sequence @ project + project_bias, 0) * inside
        states = states_of(projected, inside)
        outside = OUTSIDE * (1 - inside)
        attention = _softmax(states @ score + score_bias + outside, axis=1)
        pooled = np.concatenate([(attention * states).sum(axis=1), (states + outside).max(axis=1)], axis=-1)
        return states @ slices + slices_bias, pooled @ exams + exams_bias

    return run


States = Callable[[np.ndarray, np.ndarray], np.ndarray]


def _gru(weights: _Weights) -> States:
    forwards, backwards = weights.take(3), weights.take(3)

    def states(tensor: np.ndarray, inside: np.ndarray) -> np.ndarray:
        there = _gru_pass(tensor, *forwards)
        back = _gru_pass(tensor[:, ::-1], *backwards)[:, ::-1]
        return np.concatenate([tensor, there, back], axis=-1)

    return states


def _gru_pass(tensor: np.ndarray, kernel: np.ndarray, recurrent: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Run a GRU with `reset_after` along axis 1; its gates are update, reset, candidate."""
    projected = tensor @ kernel + bias[0]
    units = recurrent.shape[0]
    state = np.zeros((len(tensor), units), tensor.dtype)
    states = np.empty((*tensor.shape[:2], units), tensor.dtype)
    for step in range(tensor.shape[1]):
        inner = state @ recurrent + bias[1]
        gates = expit(projected[:, step, : 2 * units] + inner[:, : 2 * units])
        update, reset = gates[:, :units], gates[:, units:]
        candidate = np.tanh(projected[:, step, 2 * units :] + reset * inner[:, 2 * units :])
        state = update * state + (1 - update) * candidate
        states[:, step] = state
    return states


def _transformer(weights: _Weights) -> States:
    (positions,) = weights.take(1)
    blocks = [weights.take(16) for _ in range(BLOCKS)]
    gamma, beta = weights.take(2)

    def states(tensor: np.ndarray, inside: np.ndarray) -> np.ndarray:
        tensor = tensor + positions
        for block in blocks:
            tensor = _block(tensor, inside, block)
        return _normalise(tensor, gamma, beta)

    return states


def _block(tensor: np.ndarray, inside: np.ndarray, weights: Sequence[np.ndarray]) -> np.ndarray:
    """Run a pre-norm transformer block; positions outside the exam are not attended to."""
    normalised = _normalise(tensor, *weights[:2])
    query, key, value = (
        np.einsum("bld,dhk->bhlk", normalised, kernel) + bias[:, None]
        for kernel, bias in zip(weights[2:8:2], weights[3:8:2], strict=True)
    )
    scores = query @ key.swapaxes(2, 3) / np.sqrt(np.float32(query.shape[-1]))
    attention = _softmax(np.where(inside[:, None, None, :, 0] > 0, scores, np.float32(-1e9)), axis=-1)
    tensor = tensor + np.einsum("bhlk,hkd->bld", attention @ value, weights[8]) + weights[9]
    hidden = _normalise(tensor, *weights[10:12]) @ weights[12] + weights[13]
    return tensor + _gelu(hidden) @ weights[14] + weights[15]


def _normalise(tensor: np.ndarray, gamma: np.ndarray, beta: np.ndarray) -> np.ndarray:
    centred = tensor - tensor.mean(axis=-1, keepdims=True)
    return centred / np.sqrt(np.square(centred).mean(axis=-1, keepdims=True) + np.float32(EPSILON)) * gamma + beta


def _softmax(scores: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=axis, keepdims=True))
    return powers / powers.sum(axis=axis, keepdims=True)


def _gelu(values: np.ndarray) -> np.ndarray:
    return 0.5 * values * (1 + erf(values / np.sqrt(np.float32(2))))


#: Kind -> builder of the states, as `models.exam_network.BUILDERS`.
STATES: dict[str, Callable[[_Weights], States]] = {"gru": _gru, "transformer": _transformer}
