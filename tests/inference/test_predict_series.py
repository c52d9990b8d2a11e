"""Unlabelled DICOM files become studies in a store; the ensemble's predictions become text and a CSV."""

import os
import re
import subprocess
import sys
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.acceptance_rules import Acceptance, Reason, accept
from features.store import open_exam, stored_studies
from inference import predict_series, predicted_studies, series_reader
from inference.clot_maps import ClotMap
from inference.partial_results import partial_results
from inference.predict_series import predict_folder
from inference.predicted_studies import PredictedStudies, measured_numbers
from inference.series_reader import Study, find_studies, read_studies, slice_table
from input.contest import CENTRAL, EXAM_LABELS, GTE_1, SLICE_LABEL, SOP, STUDY
from input.safe_decoding import Outcome
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.settings import FeaturesSettings, InputSettings, ModelsSettings, Settings
from tests.support.dicom_files import write_slice

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Two studies in one flat folder, one in reverse order with a hostile UID, and files that are not usable."""
    folder = tmp_path / "scans"
    for number in range(4):
        tags = {"StudyInstanceUID": "1.2.1", "SeriesInstanceUID": "1.2.1.1"}
        write_slice(folder / f"a0000000000{number}.dcm", z=5.0 * number, InstanceNumber=4 - number, **tags)
    for number in range(3):
        tags = {"StudyInstanceUID": "../../escape", "SeriesInstanceUID": "1.2.2.1"}
        write_slice(folder / f"b0000000000{number}.dcm", z=-5.0 * number, **tags)
    (folder / "README.md").write_text("not DICOM")
    (folder / "copy.dcm").write_bytes((folder / "a00000000000.dcm").read_bytes())
    return folder


def test_studies_are_grouped_by_their_headers_and_ordered_by_z(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    studies = read_studies(scans, store, FeaturesSettings())
    assert [study.study_uid for study in studies] == ["../../escape", "1.2.1"]
    assert studies[0].slices[SOP].tolist() == ["b00000000002", "b00000000001", "b00000000000"]
    assert studies[1].slices["z_mm"].tolist() == [0.0, 5.0, 10.0, 15.0]
    assert all(study.quarantined == [] for study in studies)
    assert stored_studies(store) == ["study00000", "study00001"]
    assert len(measured_numbers(studies).slices) == 7
    assert slice_table(studies)[STUDY].tolist() == ["study00000"] * 3 + ["study00001"] * 4
    shown = capsys.readouterr().out
    assert "files that are not usable axial CT slices: 2" in shown
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scans", "store"]


@pytest.mark.parametrize("text", ["", "not DICOM"])
def test_a_folder_without_a_usable_series_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "scans").mkdir()
    if text:
        (tmp_path / "scans" / "notes.txt").write_text(text)
    with pytest.raises(UserError, match="no usable series"):
        read_studies(tmp_path / "scans", tmp_path, FeaturesSettings())
    with pytest.raises(UserError, match="no such folder"):
        read_studies(tmp_path / "nowhere", tmp_path, FeaturesSettings())


def pack(folder: Path, archive: Path) -> Path:
    """Write a zip archive of a folder's files."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for path in sorted(folder.iterdir()):
            opened.write(path, f"patient/{path.name}")
    return archive


def read_into(store: Path, source: Path) -> list[Study]:
    store.mkdir()
    return read_studies(source, store, FeaturesSettings())


def decode_here(patch: pytest.MonkeyPatch) -> None:
    """Decode files in this process."""
    patch.setattr(
        "inference.series_reader.decode_exams", lambda jobs, run: (Outcome(job, run(job, {})) for job in jobs)
    )


@pytest.mark.parametrize("inside", [False, True], ids=["the archive itself", "an archive in a folder"])
def test_an_archive_gives_the_same_studies_as_its_folder(
    scans: Path, tmp_path: Path, inside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packed").mkdir()
    archive = pack(scans, tmp_path / "packed" / "export.zip")
    before = sorted(tmp_path.rglob("*"))
    if inside:  # the other archive is decoded in another process, as any file is
        decode_here(monkeypatch)
    packed = read_into(tmp_path / "b", archive.parent if inside else archive)
    assert [path for path in sorted(tmp_path.rglob("*")) if tmp_path / "b" not in (path, path.parent)] == before
    decode_here(monkeypatch)
    plain = read_into(tmp_path / "a", scans)
    pd.testing.assert_frame_equal(slice_table(packed), slice_table(plain))
    for study in stored_studies(tmp_path / "a"):
        np.testing.assert_array_equal(open_exam(tmp_path / "b", study).hu[:], open_exam(tmp_path / "a", study).hu[:])
    for table in ("slices", "exams"):
        pd.testing.assert_frame_equal(getattr(measured_numbers(packed), table), getattr(measured_numbers(plain), table))


def test_a_damaged_member_is_named_and_the_other_members_are_read(
    scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    decode_here(monkeypatch)
    archive = pack(scans, tmp_path / "export.zip")
    with zipfile.ZipFile(archive) as opened:
        middle = opened.getinfo("patient/a00000000001.dcm").header_offset + 400
    data = bytearray(archive.read_bytes())
    data[middle : middle + 40] = bytes(40)
    archive.write_bytes(data)
    study = read_into(tmp_path / "store", archive)[1]
    assert study.slices[SOP].tolist() == ["a00000000000", "a00000000002", "a00000000003"]
    assert f"  {archive}/patient/a00000000001.dcm: unreadable zip member" in capsys.readouterr().out


class FakeRun:
    """A finished run whose labels are constant and whose slice probabilities rise from the feet to the head."""

    predicted: list[str] = []
    acceptance: dict[str, Acceptance] = {}

    def __init__(self, settings: Settings) -> None:
        pass

    def predict(self, store: Path, studies: list[Study]) -> PredictedStudies:
        slices = slice_table(studies)
        exams = pd.DataFrame({STUDY: slices[STUDY].unique()}).assign(**dict.fromkeys(EXAM_LABELS, 0.2))
        exams[[GTE_1, CENTRAL]] = 0.8
        rank = slices.groupby(STUDY).cumcount()
        clot = ClotMap(np.full((len(slices), 2, 2), 0.01, np.float32), np.eye(2, 3), 10.0, np.ones(len(slices)), 0.5)
        self.predicted.extend(study.study_uid for study in studies)
        return PredictedStudies(
            studies, exams, slices[[STUDY, SOP]].assign(label=0.5 + rank / 10), measured_numbers(studies), {},
            {study.name: clot for study in studies},
            {study.name: self.acceptance.get(study.study_uid, Acceptance()) for study in studies},
            {"networks": 0.1, "ensemble": 0.1},
        )  # fmt: skip


@pytest.fixture
def finished_run(monkeypatch: pytest.MonkeyPatch) -> type[FakeRun]:
    """Replace the finished run by `FakeRun`, and the processes that decode files by this one."""
    monkeypatch.setattr(FakeRun, "predicted", [])
    monkeypatch.setattr(FakeRun, "acceptance", {})
    monkeypatch.setattr(predict_series, "FinishedRun", FakeRun)
    monkeypatch.setattr(predict_series, "require_finished", lambda settings: None)
    monkeypatch.setattr(predict_series, "read_manifest", lambda folder: {"identity": "finished"})
    monkeypatch.setattr(predict_series, "trained_on_phantoms", lambda: True)
    monkeypatch.setattr(predict_series, "study_findings", lambda predicted: defaultdict(list))
    decode_here(monkeypatch)
    return FakeRun


def test_labels_are_printed_and_tables_written(
    scans: Path, tmp_path: Path, finished_run: type[FakeRun], capsys: pytest.CaptureFixture[str]
) -> None:
    predict_folder(Settings(), scans, tmp_path / "slices.csv")
    predict_folder(Settings(), pack(scans, tmp_path / "export.zip"), tmp_path / "packed.csv")
    for table in ("", "_exams"):
        assert (tmp_path / f"packed{table}.csv").read_bytes() == (tmp_path / f"slices{table}.csv").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["scans"]
    shown = capsys.readouterr().out
    assert shown.count("clot burden: 0.0 ml (left 0.0, right 0.0)") == 4
    assert "study 1.2.1: assessable\n" in shown and "study ../../escape: assessable\n" in shown
    assert len(re.findall(r"^RV/LV ratio >= 1 +0\.800  yes$", shown, re.MULTILINE)) == 4
    assert shown.rstrip().endswith(predicted_studies.SYNTHETIC_WARNING)
    table = pd.read_csv(tmp_path / "slices.csv", dtype={STUDY: str})
    assert table[STUDY].tolist() == ["../../escape"] * 3 + ["1.2.1"] * 4
    assert table[SLICE_LABEL].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.5, 0.6, 0.7, 0.8])
    exams = pd.read_csv(tmp_path / "slices_exams.csv", dtype={STUDY: str})
    assert exams[STUDY].tolist() == ["../../escape", "1.2.1"] and exams[GTE_1].tolist() == [0.8, 0.8]
    assert set(table["acceptance"]) == set(exams["acceptance"]) == {"assessable"}
    assert table["reasons"].isna().all() and exams["reasons"].isna().all()


@pytest.mark.parametrize("force", [False, True])
def test_labels_of_a_study_that_is_not_assessable_are_withheld_unless_forced(
    force: bool, scans: Path, tmp_path: Path, finished_run: type[FakeRun], capsys: pytest.CaptureFixture[str]
) -> None:
    finished_run.acceptance["../../escape"] = accept((Reason("lungs", "no lungs found", True),))
    finished_run.acceptance["1.2.1"] = accept((Reason("noise", "strong noise"),))
    predict_folder(Settings(), scans, tmp_path / "slices.csv", force_labels=force)
    shown = capsys.readouterr().out
    refused, caution = shown.split("study ../../escape: ")[1].split("study 1.2.1: ")
    assert refused.startswith("not assessable: no lungs found\n") and caution.startswith("caution: strong noise\n")
    assert ("--force-labels" in refused) is not force and ("RV/LV" in refused) is force and "RV/LV" in caution
    for name, counts in (("slices", (3, 4)), ("slices_exams", (1, 1))):
        table = pd.read_csv(tmp_path / f"{name}.csv", dtype={STUDY: str})
        assert table["acceptance"].tolist() == ["not assessable"] * counts[0] + ["caution"] * counts[1]
        assert table["reasons"].tolist() == ["no lungs found"] * counts[0] + ["strong noise"] * counts[1]
        label = SLICE_LABEL if name == "slices" else GTE_1
        assert table[label].isna().tolist() == [not force] * counts[0] + [False] * counts[1]


def test_studies_withheld_for_the_same_reason_are_summarised(
    tmp_path: Path, finished_run: type[FakeRun], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(8):
        tags = {"StudyInstanceUID": f"1.5.{number}", "SOPInstanceUID": f"1.6.{number}", "PatientID": f"P{number}"}
        write_slice(tmp_path / "scans" / f"{number}.dcm", **tags)
        finished_run.acceptance[f"1.5.{number}"] = accept((Reason("extent", "1 slice: not an exam", True),))
    predict_folder(Settings(), tmp_path / "scans", tmp_path / "slices.csv")
    shown = capsys.readouterr().out
    assert shown.count("not assessable: 1 slice: not an exam") == 3 + 1
    assert "5 more studies: not assessable: 1 slice: not an exam; see " in shown
    assert len(pd.read_csv(tmp_path / "slices_exams.csv")) == 8


def test_a_killed_run_resumes_after_its_last_finished_study(
    scans: Path, tmp_path: Path, finished_run: type[FakeRun], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(predict_series, "GROUP_SLICES", 1)
    predict_folder(Settings(), scans, tmp_path / "whole.csv")
    uninterrupted = FakeRun.predict

    def killed(self: FakeRun, store: Path, studies: list[Study]) -> PredictedStudies:
        if studies[0].study_uid == "1.2.1":
            raise KeyboardInterrupt
        return uninterrupted(self, store, studies)

    monkeypatch.setattr(FakeRun, "predict", killed)
    with pytest.raises(KeyboardInterrupt):
        predict_folder(Settings(), scans, tmp_path / "again.csv")
    assert len(pd.read_csv(tmp_path / "again_exams.csv")) == 1
    monkeypatch.setattr(FakeRun, "predict", uninterrupted)
    finished_run.predicted.clear()
    capsys.readouterr()
    predict_folder(Settings(), scans, tmp_path / "again.csv")
    assert finished_run.predicted == ["1.2.1"]
    assert "1 of 2 studies were predicted by an earlier run" in capsys.readouterr().out
    for table in ("", "_exams"):
        assert (tmp_path / f"again{table}.csv").read_bytes() == (tmp_path / f"whole{table}.csv").read_bytes()
    assert not (tmp_path / "again.partial").exists()


def test_results_of_changed_files_or_another_ensemble_are_not_resumed(
    scans: Path, tmp_path: Path, finished_run: type[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted() -> None:
        """Predict all studies, and stop before the tables are written."""
        finished_run.predicted.clear()
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(predict_series, "slice_rows", lambda results: (_ for _ in ()).throw(KeyboardInterrupt))
            predict_folder(Settings(), scans, tmp_path / "slices.csv")

    interrupted()
    assert finished_run.predicted == ["../../escape", "1.2.1"]
    interrupted()
    assert finished_run.predicted == []
    os.utime(scans / "b00000000000.dcm", (0, 0))
    interrupted()
    assert finished_run.predicted == ["../../escape"]
    monkeypatch.setattr(predict_series, "read_manifest", lambda folder: {"identity": "another"})
    interrupted()
    assert finished_run.predicted == ["../../escape", "1.2.1"]


def test_two_runs_with_the_same_output_are_refused(scans: Path, tmp_path: Path, finished_run: type[FakeRun]) -> None:
    with partial_results(tmp_path / "slices.csv", {}, keeps_pixels=False):
        with pytest.raises(UserError, match="another predict run writes"):
            predict_folder(Settings(), scans, tmp_path / "slices.csv")


def test_many_headers_are_read_in_batches(
    scans: Path, tmp_path: Path, finished_run: type[FakeRun], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = find_studies(scans, tmp_path, FeaturesSettings())
    monkeypatch.setattr(series_reader, "MANY_FILES", 1)
    monkeypatch.setattr(series_reader, "HEADER_BATCH", 2)
    assert find_studies(scans, tmp_path, FeaturesSettings()) == whole


def test_prediction_imports_neither_tensorflow_nor_keras() -> None:
    code = "import sys; import inference.predict_series; print({'keras', 'tensorflow'} & set(sys.modules))"
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=paths.CHECKOUT)
    assert finished.stdout == "set()\n", finished.stderr


@pytest.mark.parametrize("name", ["out", "evidence"])
def test_a_target_that_cannot_be_written_is_found_before_any_work(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(predict_series, "require_finished", lambda *_: pytest.fail("the run was opened"))
    targets = {"out": tmp_path / "slices.csv", "evidence": tmp_path / "e.html"}
    targets[name] = scans / "README.md" / "below_a_file"
    with pytest.raises(UserError, match="Cannot write .*below_a_file"):
        predict_folder(Settings(), scans, **targets)


def test_networks_of_another_format_are_reported_before_any_file_is_read(
    scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(predict_series, "find_studies", lambda *_: pytest.fail("the series was read"))
    settings = Settings(input=InputSettings(folds=2), models=ModelsSettings(backbones=("mobilenetv2",)))
    for folder in (
        paths.prepared(),
        paths.store(),
        paths.masks(),
        *(paths.model_run("mobilenetv2", fold) for fold in range(2)),
    ):
        write_json(folder / "manifest.json", {"identity": "earlier", "version": 0})
    with pytest.raises(UserError, match="format version 0 -> ") as fault:
        predict_folder(settings, scans, tmp_path / "slices.csv")
    assert "mobilenetv2/fold0" in str(fault.value) and "mobilenetv2/fold1" in str(fault.value)
