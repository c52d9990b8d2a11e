"""The finished ensemble applied to exams without labels, such as a folder of DICOM files."""

import pandas as pd

from ensemble.candidates import PRIOR, load_one
from ensemble.fit_ensemble import predict_test
from ensemble.predictions import Measured, make_view, table_faults
from input.contest import SOP, STUDY
from pipeline import paths
from pipeline.artifact import read_manifest, verify
from pipeline.errors import UserError
from pipeline.files import read_json


def apply(
    networks: dict[int, dict[str, pd.DataFrame]],
    slices: pd.DataFrame,
    *,
    measured: Measured | None = None,
    candidate: str | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict exams with the finished ensemble of `paths.ensemble_run()`.

    Args:
        networks: fold -> network -> what that network says: StudyInstanceUID, SOPInstanceUID, `pe` and one column
            an auxiliary head (as in models/runs/<network>/fold<k>/slices.parquet).
        slices: StudyInstanceUID, SOPInstanceUID and z_mm of every slice of these exams, unreadable ones too.
        measured: numbers of features.slice_measurements, as in features/store; without them they count as unknown.
        candidate: a candidate's name; the promoted one when None.

    Returns:
        exams (StudyInstanceUID, nine labels, expected_q) and slices (StudyInstanceUID, SOPInstanceUID, label), as
        `ensemble.decode.decode` takes them.

    Raises:
        UserError: no finished ensemble, a file that does not match its sha256, unusable predictions.
    """
    directory = paths.ensemble_run()
    promoted = read_manifest(directory)["metrics"]["promoted"]
    verify(directory, ["models.json"])
    saved = read_json(directory / "models.json")["final"]
    name = candidate or promoted
    if name not in saved:
        raise UserError(f"{name}: no such candidate; the ensemble has {', '.join(saved)}")
    faults = [
        f"{network} fold {fold}: {fault}"
        for fold, tables in networks.items()
        for network, table in tables.items()
        for fault in table_faults(table)
    ]
    if faults:
        raise UserError.listing("Unusable network predictions:", faults)
    folder = directory / "trees" / "final"
    candidates = {each: load_one(saved, each, folder) for each in dict.fromkeys((PRIOR, name))}
    measured = measured or Measured(pd.DataFrame(columns=[STUDY, SOP]), pd.DataFrame(columns=[STUDY]))
    views = [make_view(tables, slices, measured) for _, tables in sorted(networks.items())]
    return predict_test(candidates, views, slices[[STUDY]].drop_duplicates(), slices)[name]
