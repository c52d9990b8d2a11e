"""Files are complete at their final path or absent."""

import errno
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import pytest

from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import (
    atomic_path,
    read_json,
    read_table,
    require_writable,
    sha256,
    write_bytes,
    write_json,
    write_table,
    write_text,
)


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "table.csv"
    write_text(target, "old")
    with pytest.raises(RuntimeError, match="disk on fire"), atomic_path(target) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("disk on fire")
    assert target.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["table.csv"]


def test_the_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "file.bin"
    with atomic_path(target) as temporary:
        temporary.write_bytes(b"new")
        assert not target.exists()
        assert temporary.suffix == ".bin"
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_written_file_has_the_permissions_of_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    script = "import sys, pathlib, pipeline.files; pipeline.files.write_bytes(pathlib.Path(sys.argv[1]), b'1')"
    subprocess.run([sys.executable, "-c", script, tmp_path / "x"], cwd=paths.CHECKOUT, umask=umask, check=True)
    assert (tmp_path / "x").stat().st_mode & 0o777 == mode


def test_json_is_sorted_ends_with_a_newline_and_refuses_nan(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_json(file, {"b": 1, "a": [1.5, None]})
    assert file.read_text() == '{\n  "a": [\n    1.5,\n    null\n  ],\n  "b": 1\n}\n'
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(file, {"a": float("nan")})
    assert read_json(file) == {"b": 1, "a": [1.5, None]}


def test_invalid_json_is_reported_with_a_fix(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"a": ')
    with pytest.raises(UserError, match=r"a\.json: .* rerun the stage"):
        read_json(tmp_path / "a.json")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_tables_keep_values_and_columns(tmp_path: Path, name: str) -> None:
    table = pd.DataFrame({"StudyInstanceUID": ["0a", "0b"], "p": [0.1, 1 / 3], "extra": [1, 2]})
    write_table(tmp_path / name, table)
    pd.testing.assert_frame_equal(read_table(tmp_path / name), table, check_dtype=False)
    assert list(read_table(tmp_path / name, ["p"]).columns) == ["p"]


def test_a_missing_table_names_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"exams\.parquet\. Run the stage"):
        read_table(tmp_path / "exams.parquet")


def test_a_folder_that_cannot_be_written_is_found_before_the_work(tmp_path: Path, monkeypatch) -> None:
    require_writable(tmp_path / "new" / "slices.csv")
    assert list(tmp_path.iterdir()) == []

    def refuse(**_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    with pytest.raises(UserError, match=r"Cannot write .*slices\.csv: .*: Read-only file system\."):
        require_writable(tmp_path / "slices.csv")


def test_sha256_hashes_all_bytes(tmp_path: Path) -> None:
    write_bytes(tmp_path / "x", b"abc" * 100_000)
    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_a_name_that_is_not_valid_text_can_be_printed(capsys: pytest.CaptureFixture[str]) -> None:
    say("Größe of M\udcfcller.dcm")
    assert capsys.readouterr().out == "Größe of M\\udcfcller.dcm\n"
