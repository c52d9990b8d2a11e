"""The artifact features/store built from DICOM files: complete, resumable, and reporting files that do not decode."""

import hashlib

import numpy as np
import pytest
from PIL import Image

from features.__main__ import check_store_command
from features.build_store import build, exam_jobs, store_artifact
from features.exam_preview import write_preview
from features.ingest import ingest_exam
from features.store import open_exam, sidecar_path, stored_studies
from input.contest import SOP, STUDY
from input.tables import load_slices, prepare
from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.errors import UserError
from pipeline.files import read_json, read_table
from pipeline.settings import FeaturesSettings, InputSettings, Settings
from tests.support.dicom_files import write_tree


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """Settings of a tiny prepared tree: six training exams and two test exams of three slices each."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "artifacts"))
    tree = write_tree(tmp_path / "tree")
    settings = Settings(input=InputSettings(data=str(tree), folds=2), features=FeaturesSettings(spacing_mm=1.0))
    prepare(settings)
    return settings


def first_job(settings, directory):
    return next(exam_jobs(load_slices(), settings.data_root, directory, settings.features))


def ingest_first(settings, directory):
    job = first_job(settings, directory)
    return job, ingest_exam(job, {})


def test_an_exam_is_stored_with_the_checksums_of_its_files(prepared, tmp_path):
    job, ingested = ingest_first(prepared, tmp_path / "store")
    exam = open_exam(tmp_path / "store", job.name)
    assert exam.sop_uids == job.payload.sop_uids == ingested.sop_uids
    assert np.all(np.diff(exam.z_mm) > 0)
    expected = [hashlib.sha256(file.read_bytes()).hexdigest() for file in job.files]
    assert [exam.sidecar["source_sha256"][sop] for sop in exam.sop_uids] == expected
    assert len(ingested.slices) == ingested.numbers["n_stored"] == 3


def test_a_truncated_slice_is_quarantined_and_the_others_are_stored(prepared, tmp_path):
    job = first_job(prepared, tmp_path / "store")
    job.files[1].write_bytes(job.files[1].read_bytes()[:-500])
    ingested = ingest_exam(job, {})
    assert ingested.sop_uids == (job.payload.sop_uids[0], job.payload.sop_uids[2])
    assert "truncated" in ingested.quarantine[job.payload.sop_uids[1]]
    assert open_exam(tmp_path / "store", job.name).sidecar["quarantine"] == ingested.quarantine


def test_a_file_that_kills_its_decoder_is_not_read(prepared, tmp_path):
    job = first_job(prepared, tmp_path / "store")
    ingested = ingest_exam(job, {job.files[0]: "its process died"})
    assert ingested.quarantine == {job.payload.sop_uids[0]: "its process died"}
    assert len(ingested.sop_uids) == 2


def test_an_exam_without_a_decodable_slice_is_not_stored(prepared, tmp_path):
    job = first_job(prepared, tmp_path / "store")
    ingested = ingest_exam(job, dict.fromkeys(job.files, "hung"))
    assert ingested.numbers == {}
    assert stored_studies(tmp_path / "store") == []


def test_a_stored_exam_is_measured_again_without_its_files(prepared, tmp_path):
    job, first = ingest_first(prepared, tmp_path / "store")
    for file in job.files:
        file.unlink()
    again = ingest_exam(job, {})
    assert again.slices.equals(first.slices)
    assert again.sop_uids == first.sop_uids


@pytest.mark.slow
def test_build_keeps_every_row_and_resumes(prepared, capsys, monkeypatch):
    slices = load_slices()
    # An exam that was stored before the build was killed is kept.
    killed = first_job(prepared, paths.store())
    with store_artifact(prepared).building() as directory:
        ingest_exam(killed, {})
        written = sidecar_path(directory, killed.name).stat().st_mtime_ns
        leftover = directory / ".ab12.b2nd.x1y2z3.b2nd"
        leftover.write_bytes(b"half of an exam")
    lost = slices[slices[STUDY] != killed.name].iloc[0]
    file = prepared.data_root / lost["path"]
    file.write_bytes(file.read_bytes()[:-500])
    build(prepared)
    assert sidecar_path(paths.store(), killed.name).stat().st_mtime_ns == written
    assert not leftover.exists()
    table = read_table(paths.store() / "slices.parquet")
    assert len(table) == len(slices)
    assert set(table[SOP]) == set(slices[SOP])
    assert (
        table.loc[table["quarantine"] != "", SOP].tolist() == table.loc[table["row"] < 0, SOP].tolist() == [lost[SOP]]
    )
    assert table.set_index(SOP).loc[lost[SOP], "quarantine"].startswith("truncated")
    report = read_json(paths.store() / "report.json")
    assert report["slices_quarantined"] == 1 and report["slices_stored"] == len(slices) - 1
    assert report["quarantine_reasons"] == {"truncated: pixel data ends at byte #, the file at #": 1}
    exams = read_table(paths.store() / "exams.parquet")
    assert sorted(exams[STUDY]) == stored_studies(paths.store())
    manifest = read_manifest(paths.store())
    assert manifest["rows"]["exams"] == 8
    assert "8 exams" in capsys.readouterr().out
    build(prepared)
    assert "up to date" in capsys.readouterr().out


@pytest.mark.slow
def test_check_store_lists_raw_files_that_changed_since_they_were_stored(prepared, capsys):
    with pytest.raises(UserError, match="not built yet. Build it"):
        check_store_command(prepared)
    job = first_job(prepared, paths.store())
    build(prepared)
    assert check_store_command(prepared) == 0
    changed, lost, _ = job.files
    changed.write_bytes(changed.read_bytes()[:-1] + b"!")
    lost.unlink()
    capsys.readouterr()
    assert check_store_command(prepared) == 1
    printed = capsys.readouterr().out
    assert (
        f"{changed}: its sha256 differs from the one recorded" in printed
        and f"{lost}: No such file or directory" in printed
    )
    assert f"{prepared.data_root}: 2 files changed" in printed


def test_another_spacing_gives_another_artifact(prepared):
    other = Settings(input=prepared.input, features=FeaturesSettings(spacing_mm=2.0))
    assert store_artifact(prepared).identity != store_artifact(other).identity


def test_build_before_prepare_names_the_next_command(tmp_path, monkeypatch):
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"run\.sh"):
        build(Settings())


@pytest.mark.slow
def test_a_preview_shows_a_folder_or_a_known_exam(prepared, tmp_path):
    slices = load_slices()
    folder = (prepared.data_root / slices["path"].iat[0]).parent
    line = write_preview(str(folder), tmp_path / "page.png", prepared, columns=2)
    assert "3 slices" in line
    with Image.open(tmp_path / "page.png") as page:
        assert page.width == 4 + 2 * 204
    assert "3 slices" in write_preview(slices[STUDY].iat[0], tmp_path / "exam.png", prepared)


def test_a_preview_of_an_unknown_exam_is_an_error(prepared, tmp_path):
    with pytest.raises(UserError, match="neither a folder"):
        write_preview("nowhere", tmp_path / "page.png", prepared)


def test_a_full_disk_stops_the_build_with_a_suggested_fix(prepared, monkeypatch):
    def fail_as_full_disk(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("features.store.write_bytes", fail_as_full_disk)
    with pytest.raises(UserError, match=r"Exam .* cannot be written: .*: No space left on device. Free disk space"):
        ingest_first(prepared, paths.store())


@pytest.mark.slow
def test_a_store_without_any_exam_is_not_finished(prepared):
    for file in prepared.data_root.rglob("*.dcm"):
        file.write_bytes(file.read_bytes()[:-500])
    with pytest.raises(UserError, match=r"(?s)None of 8 exams could be stored:.*24 slices: truncated"):
        build(prepared)
    assert store_artifact(prepared).stale_reason() == "not built yet"
