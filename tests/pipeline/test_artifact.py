"""Artifacts: identity, reasons to rebuild, resuming after a kill, and checksums that detect a flipped byte."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.artifact import MANIFEST, Artifact, read_manifest, verify
from pipeline.errors import UserError
from pipeline.files import write_json, write_text
from pipeline.identity import identity_of


@pytest.fixture
def directory(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    return tmp_path / "input" / "prepared"


def make_artifact(directory: Path, **changes) -> Artifact:
    values = {"version": 1, "settings": {"folds": 3, "size": {"rows": 64}}, "inputs": {"raw": "abc"}} | changes
    return Artifact(directory, "input/prepared", **values)


def build(artifact: Artifact, **files: str) -> None:
    with artifact.building() as directory:
        for name, text in (files or {"exams": "one"}).items():
            write_text(directory / f"{name}.txt", text)
        artifact.finish(rows={"exams": 1}, metrics={"auc": 0.5})


def test_an_identity_depends_on_values_but_not_on_their_order() -> None:
    assert identity_of({"a": 1, "b": [2]}) == identity_of({"b": [2], "a": 1})
    assert identity_of({"a": 1}) != identity_of({"a": 2})
    assert len(identity_of({})) == 16


def test_tuples_and_lists_in_settings_have_the_same_identity(directory: Path) -> None:
    assert (
        make_artifact(directory, settings={"a": (1, 2)}).identity
        == make_artifact(directory, settings={"a": [1, 2]}).identity
    )


def test_an_artifact_is_current_only_after_finish(directory: Path) -> None:
    artifact = make_artifact(directory)
    assert artifact.stale_reason() == "not built yet"
    with artifact.building():
        assert artifact.stale_reason() == "not built yet"
        artifact.finish(rows={})
    assert artifact.stale_reason() is None
    assert make_artifact(directory).stale_reason() is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 2}, "format version 1 -> 2"),
        ({"settings": {"folds": 5, "size": {"rows": 64}}}, "setting folds: 3 -> 5"),
        ({"settings": {"folds": 3, "size": {"rows": 32}}}, "setting size.rows: 64 -> 32"),
        ({"settings": {"folds": 3, "size": {"rows": 64}, "new": 1}}, "setting new: None -> 1"),
        ({"inputs": {"raw": "xyz"}}, "its input raw changed"),
    ],
)
def test_the_reason_for_a_rebuild_names_the_change(directory: Path, changes: dict, reason: str) -> None:
    build(make_artifact(directory))
    assert make_artifact(directory, **changes).stale_reason() == reason


def test_a_missing_file_is_a_reason_to_build_it_again(directory: Path) -> None:
    build(make_artifact(directory), old="x", older="y")
    (directory / "old.txt").unlink()
    assert make_artifact(directory).stale_reason() is None
    assert make_artifact(directory).build_reason() == "old.txt is missing"
    (directory / "older.txt").unlink()
    assert make_artifact(directory).build_reason() == "old.txt is missing, and 1 more files"


def test_shared_artifacts_of_different_settings_lie_side_by_side(directory: Path) -> None:
    first, second = (make_artifact(directory, settings={"folds": folds}, shared=True) for folds in (3, 5))
    build(first, exams="three")
    assert second.stale_reason() == "setting folds: 3 -> 5"
    build(second, exams="five")
    assert (directory / "exams.txt").read_text() == "five"
    assert first.is_current(force=False)
    assert (directory / "exams.txt").read_text() == "three"
    assert first.directory.name == f"prepared-{first.identity[:10]}" and second.directory.is_dir()


def test_an_equal_shared_artifact_is_linked_and_not_built_again(directory: Path) -> None:
    build(make_artifact(directory, shared=True))
    other = directory.with_name("of another experiment")
    assert make_artifact(other, shared=True).connect_if_finished()
    assert other.resolve() == directory.resolve()
    assert not make_artifact(other, settings={}, shared=True).connect_if_finished()
    assert other.resolve() == directory.resolve()


def test_a_shared_artifact_with_a_missing_file_keeps_the_others_while_it_is_built(directory: Path) -> None:
    build(make_artifact(directory, shared=True), one="1", two="2")
    (directory / "two.txt").unlink()
    with make_artifact(directory, shared=True).building() as folder:
        assert (folder / "one.txt").read_text() == "1"


def test_a_packed_artifact_is_read_where_it_lies(directory: Path) -> None:
    build(make_artifact(directory))
    artifact = make_artifact(directory, shared=True)
    assert artifact.directory == directory and artifact.stale_reason() is None


def test_a_skip_and_a_build_print_one_line_each(directory: Path, capsys) -> None:
    artifact = make_artifact(directory)
    assert not artifact.is_current(force=False)
    build(artifact)
    assert artifact.is_current(force=False)
    assert not artifact.is_current(force=True)
    assert capsys.readouterr().out.splitlines() == [
        "input/prepared: building (not built yet)",
        "input/prepared: up to date",
        "input/prepared: building (forced)",
    ]


def test_a_changed_source_is_reported_but_rebuilds_nothing(directory: Path, capsys) -> None:
    build(make_artifact(directory))
    manifest = read_manifest(directory)
    write_json(directory / MANIFEST, manifest | {"source": "another"})
    assert make_artifact(directory).is_current(force=False)
    assert "up to date; its source code has changed" in capsys.readouterr().out


def test_the_manifest_records_files_rows_metrics_and_versions(directory: Path) -> None:
    build(make_artifact(directory), exams="one", slices="two")
    manifest = read_manifest(directory)
    assert sorted(manifest["files"]) == ["exams.txt", "slices.txt"]
    assert manifest["rows"] == {"exams": 1}
    assert manifest["metrics"] == {"auc": 0.5}
    assert manifest["libraries"]["numpy"]
    assert manifest["wall_seconds"] >= 0


def test_another_identity_starts_from_an_empty_folder(directory: Path) -> None:
    build(make_artifact(directory), old="x")
    build(make_artifact(directory, version=2), new="y")
    assert sorted(file.name for file in directory.iterdir()) == [MANIFEST, "new.txt"]


def test_the_same_identity_keeps_the_partial_work_of_a_failed_build(directory: Path) -> None:
    with pytest.raises(RuntimeError, match="stop"), make_artifact(directory).building():
        write_text(directory / "part.txt", "epoch 3")
        raise RuntimeError("stop")
    with make_artifact(directory).building():
        assert (directory / "part.txt").read_text() == "epoch 3"


def test_fresh_drops_partial_work(directory: Path) -> None:
    with make_artifact(directory).building():
        write_text(directory / "part.txt", "epoch 3")
    with make_artifact(directory).building(fresh=True):
        assert not (directory / "part.txt").exists()


@pytest.mark.slow
def test_a_build_killed_in_the_middle_resumes_and_ends_with_the_same_files(directory: Path) -> None:
    script = f"""
import sys, time
from pathlib import Path
from pipeline.files import write_text
from pipeline.artifact import Artifact
artifact = Artifact(Path({str(directory)!r}), "input/prepared", version=1, settings={{}}, inputs={{}})
with artifact.building() as folder:
    for step in range(3):
        if (folder / f"{{step}}.txt").exists():
            print("kept", step, flush=True)
            continue
        write_text(folder / f"{{step}}.txt", str(step))
        if sys.argv[1] == "hang" and step == 1:
            print("ready", flush=True)
            time.sleep(60)
    artifact.finish(rows={{}})
"""
    environment = os.environ | {"PYTHONPATH": str(paths.CHECKOUT)}
    command = [sys.executable, "-c", script]
    with subprocess.Popen([*command, "hang"], env=environment, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout.readline() == "ready\n"
        first.send_signal(signal.SIGKILL)
    assert not (directory / MANIFEST).exists()
    second = subprocess.run([*command, "go"], env=environment, capture_output=True, text=True, check=True)
    assert second.stdout.splitlines() == ["kept 0", "kept 1"]
    assert [(directory / f"{step}.txt").read_text() for step in range(3)] == ["0", "1", "2"]
    assert sorted(read_manifest(directory)["files"]) == ["0.txt", "1.txt", "2.txt"]
    verify(directory)


def test_verify_accepts_unchanged_files(directory: Path) -> None:
    build(make_artifact(directory), a="1", b="2")
    assert verify(directory) is None and verify(directory, ["a.txt"]) is None


def test_verify_detects_a_flipped_byte_and_names_file_and_fix(directory: Path) -> None:
    build(make_artifact(directory), a="1", b="2")
    data = bytearray((directory / "b.txt").read_bytes())
    data[0] ^= 1
    (directory / "b.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"(?s)b\.txt: changed since .*: rm -f \S+b\.txt && \./run\.sh --name "):
        verify(directory)
    verify(directory, ["a.txt"])


@pytest.mark.parametrize("change", ['"auc": 0.6', "{", ""])
def test_a_changed_manifest_is_an_error_that_names_the_fix(directory: Path, change: str) -> None:
    build(make_artifact(directory))
    manifest = (directory / MANIFEST).read_text()
    write_text(directory / MANIFEST, manifest.replace('"auc": 0.5', change) if "auc" in change else change)
    with pytest.raises(UserError, match=r"Damaged manifest: .*\.json: changed .*rm -f \S+ && \./run\.sh --name"):
        read_manifest(directory)


def test_verify_lists_every_fault_at_once(directory: Path) -> None:
    build(make_artifact(directory), a="1", b="2")
    (directory / "a.txt").unlink()
    (directory / "b.txt").write_text("3")
    with pytest.raises(UserError) as caught:
        verify(directory, ["a.txt", "b.txt", "c.txt"])
    message = str(caught.value)
    assert "a.txt: missing" in message
    assert "b.txt: changed" in message
    assert "c.txt: not listed" in message


def test_reading_an_unfinished_artifact_names_the_next_command(directory: Path) -> None:
    with make_artifact(directory).building(), pytest.raises(UserError, match=r"No finished artifact: .* \./run\.sh"):
        read_manifest(directory)


def test_an_artifact_next_to_source_code_removes_only_its_own_files(directory: Path) -> None:
    directory.mkdir(parents=True)
    write_text(directory / "module.py", "source")
    write_text(directory / ".module.py.swp", "editor state")
    build(make_artifact(directory, files=("exams.txt",)), exams="x")
    again = make_artifact(directory, version=2, files=("exams.txt",))
    with again.building():
        assert not (directory / "exams.txt").exists()
        assert (directory / "module.py").read_text() == "source"
        assert (directory / ".module.py.swp").is_file()
        again.finish(rows={})
    assert read_manifest(directory)["files"] == {}


def test_finish_removes_temporary_files_of_killed_workers(directory: Path) -> None:
    artifact = make_artifact(directory)
    with artifact.building() as folder:
        write_text(folder / "exams.txt", "one")
        write_text(folder / ".exams.txt.ab12.txt", "half")
        artifact.finish(rows={"exams": 1})
    assert sorted(file.name for file in directory.iterdir()) == ["exams.txt", MANIFEST]
