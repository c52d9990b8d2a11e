"""The LightGBM stack: slices and exam targets, each learned on top of linear models."""

import dataclasses
from pathlib import Path
from typing import Any

from ensemble.binary_targets import Prediction
from ensemble.exam_stack import ExamStack
from ensemble.slice_stack import SliceStack
from ensemble.view import View
from pipeline.settings import EnsembleSettings


@dataclasses.dataclass(frozen=True)
class Stack:
    """The slice stack and the exam stack of the same networks."""

    networks: tuple[str, ...]
    exams: ExamStack
    slices: SliceStack

    @classmethod
    def fit(cls, view: View, settings: EnsembleSettings) -> "Stack":
        """Learn from a view with truth."""
        return cls(tuple(view.logits), ExamStack.fit(view, settings), SliceStack.fit(view, settings))

    def predict(self, view: View) -> Prediction:
        """Target probabilities, E[q | PE] and slice probabilities of a view."""
        view = view.of_networks(self.networks)
        slices, q_given_pe = self.slices.predict(view)
        return Prediction(self.exams.predict(view), q_given_pe, slices)

    def save(self, folder: Path) -> dict[str, Any]:
        """Write the trees into `folder`; return the JSON value that `load` needs."""
        return {
            "networks": list(self.networks),
            "exams": self.exams.save(folder),
            "slices": self.slices.save(folder),
        }

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Stack":
        """Read what `save` wrote; the digests are checked first."""
        return cls(
            tuple(value["networks"]),
            ExamStack.load(folder, value["exams"]),
            SliceStack.load(folder, value["slices"]),
        )
