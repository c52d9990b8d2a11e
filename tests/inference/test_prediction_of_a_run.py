"""Unlabelled files of the test exams of a finished run get the predictions of the run, from pixels to the stack."""

from pathlib import Path

import numpy as np
import pytest

from ensemble.apply_ensemble import apply
from inference.predicted_studies import predict_into_store
from inference.series_reader import slice_table
from input.contest import EXAM_LABELS, SOP, STUDY
from pipeline import paths
from submissions.finished_run import read_candidates
from tests.support.small_run import select

#: Networks predict slices in other batches here, which changes their last digits.
TOLERANCE = 2e-6


@pytest.mark.slow
def test_files_of_test_exams_get_the_predictions_of_the_run(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = select(small_run, monkeypatch)
    predicted = predict_into_store(settings, paths.raw() / "test", tmp_path)
    uids = {study.name: study.study_uid for study in predicted.studies}
    candidates = read_candidates(paths.ensemble_run())
    assert settings.models.artery_hu and {"mobilenetv2", "stack"} < set(candidates.names)
    for candidate in candidates.names:
        exams, slices = apply(
            predicted.networks, slice_table(predicted.studies), measured=predicted.measured, candidate=candidate
        )
        of_exams, of_slices = candidates.predictions(candidate, "test")
        labels, of_labels = (table.set_index(STUDY)[list(EXAM_LABELS)] for table in (exams, of_exams))
        assert len(labels) == len(of_labels) == 3 and len(slices) == len(of_slices)
        np.testing.assert_allclose(labels, of_labels.loc[labels.index.map(uids)], atol=TOLERANCE)
        expected = of_slices.set_index(SOP)["label"].reindex(slices[SOP])
        np.testing.assert_allclose(slices["label"], expected, atol=TOLERANCE)
        assert candidate != "mobilenetv2" or slices["label"].nunique() > len(slices) / 2
