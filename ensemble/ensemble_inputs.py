"""The inputs of the second level, read and checked."""

import dataclasses
from collections.abc import Callable

import pandas as pd

from ensemble.predictions import oof_view, read_measured, read_networks, test_view
from ensemble.view import View
from input.tables import load_exams, load_slices
from models.network_names import network_names
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import Settings


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What the second level is fitted on and predicts.

    Attributes:
        out_of_fold: the training exams as predicted by the networks of their held-out fold.
        test_view: fold -> the test exams as predicted by the networks of that fold.
        exams: the prepared exam table.
        slices: the prepared slice table.
    """

    out_of_fold: View
    test_view: Callable[[int], View]
    exams: pd.DataFrame
    slices: pd.DataFrame

    def rows(self, split: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The contest's exams and slices of one split, `train` or `test`."""
        return self.exams[self.exams["split"] == split], self.slices[self.slices["split"] == split]


def read_inputs(settings: Settings) -> Inputs:
    """Read and join the inputs; files are compared with their manifests before any parser sees them.

    Raises:
        UserError: missing, damaged or inconsistent inputs.
    """
    exams, slices = load_exams(), load_slices()
    measured = read_measured(paths.store())
    names = network_names(settings.models)

    def read_test_view(fold: int) -> View:
        return test_view(read_networks(names, [fold], "test"), fold, slices, measured)

    networks = read_networks(names, range(settings.input.folds), "oof")
    view = oof_view(networks, exams, slices, measured)
    truth, _ = view.require_truth()
    _require_pe_in_two_folds(truth)
    return Inputs(view, read_test_view, exams, slices)


def _require_pe_in_two_folds(truth: pd.DataFrame) -> None:
    """Without PE outside a fold, no model could be fitted for it."""
    counts = truth[truth["q"] > 0].groupby("fold").size()
    if len(counts) < 2:
        raise UserError(
            f"Too few training exams with PE. Expected readable ones in at least 2 folds, got {int(counts.sum())} in "
            f"{len(counts)}. Use a contest with more exams, or fewer folds (input.folds)."
        )
