"""The finished ensemble applied to exams without labels, such as a folder of DICOM files."""

import pandas as pd

from ensemble.candidates import PRIOR, load_candidate
from ensemble.cross_fitting import predict_test
from ensemble.predictions import Measured, make_view, no_measured, table_faults
from input.contest import STUDY
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
        networks: fold -> network -> its predictions: StudyInstanceUID, SOPInstanceUID, `pe` and one column per
            auxiliary head (as in a network's slices.parquet).
        slices: StudyInstanceUID, SOPInstanceUID and z_mm of every slice of these exams, including unreadable ones.
        measured: numbers of features.slice_measurements, as in features/store; None counts them as missing.
        candidate: a candidate's name; None is the promoted one.

    Returns:
        exams (StudyInstanceUID, nine labels, expected_q) and slices (StudyInstanceUID, SOPInstanceUID, label), the
        inputs of `ensemble.decode.decode`.

    Raises:
        UserError: no finished ensemble, a file that does not match its sha256, unusable predictions.
    """
    directory = paths.ensemble_run()
    promoted = read_manifest(directory)["metrics"]["promoted"]
    verify(directory, ["models.json"])
    saved = read_json(directory / "models.json")["final"]
    name = candidate or promoted
    if name not in saved:
        raise UserError(f"Unknown candidate: {name}. Expected one of {', '.join(saved)}.")
    faults = [
        f"{network} fold {fold}: {fault}"
        for fold, tables in networks.items()
        for network, table in tables.items()
        for fault in table_faults(table)
    ]
    if faults:
        raise UserError.listing("Unusable network predictions:", faults)
    folder = directory / "trees" / "final"
    candidates = {needed: load_candidate(saved, needed, folder) for needed in dict.fromkeys((PRIOR, name))}
    measured = measured or no_measured()
    views = [make_view(tables, slices, measured) for _, tables in sorted(networks.items())]
    return predict_test(candidates, views, slices[[STUDY]].drop_duplicates(), slices)[name]
