"""Packed models: checked in full before they are used."""

import hashlib
import json
import zipfile
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings, Settings
from pipeline.settings_text import settings_text
from submissions.packed_model import use_model

SETTINGS = Settings(models=ModelsSettings(backbones=("mobilenetv2@b",), per_backbone={"mobilenetv2@b": {"epochs": 3}}))
TEXTS = {
    "settings.toml": settings_text(SETTINGS.as_dict(), "packed"),
    "artifacts/models/mobilenetv2@b/fold0/network.xml": "<net/>",
}


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    return tmp_path / "root"


def index_of(texts: dict[str, str], **changes: object) -> str:
    files = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    return json.dumps({"format": 1, "name": "mine", "software": "0", "files": files} | changes)


def write_zip(file: Path, texts: dict[str, str], index: str) -> Path:
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in (texts | {"model.json": index}).items():
            archive.writestr(name, text)
    return file


def test_a_model_is_unpacked_once_and_becomes_the_experiment(tmp_path: Path, root: Path, capsys) -> None:
    file = write_zip(tmp_path / "m.zip", TEXTS, index_of(TEXTS))
    assert use_model(file) == SETTINGS
    assert (paths.model_run("mobilenetv2@b", 0) / "network.xml").read_text() == "<net/>"
    assert paths.experiment().is_relative_to(root / "models" / "packed")
    use_model(file)
    assert capsys.readouterr().out.count("unpacking") == 1


def test_a_folder_of_the_same_files_is_the_same_model(tmp_path: Path) -> None:
    use_model(write_zip(tmp_path / "m.zip", TEXTS, index_of(TEXTS)))
    unpacked = paths.experiment()
    folder = tmp_path / "folder"
    for name, text in (TEXTS | {"model.json": index_of(TEXTS)}).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    assert use_model(folder) == SETTINGS
    assert paths.experiment() == unpacked


@pytest.mark.parametrize(
    ("texts", "index", "message"),
    [
        (TEXTS | {"settings.toml": ""}, index_of(TEXTS), r"Damaged model: .*\n  - settings\.toml: changed"),
        ({"settings.toml": ""}, index_of(TEXTS), r"network\.xml: missing"),
        (TEXTS | {"more.txt": ""}, index_of(TEXTS), r"more\.txt: not listed"),
        (TEXTS | {"../x.txt": ""}, index_of(TEXTS | {"../x.txt": ""}), r"unexpected files:\n  - '\.\./x\.txt'"),
        (TEXTS | {"x.pkl": ""}, index_of(TEXTS | {"x.pkl": ""}), r"unexpected files:\n  - 'x\.pkl'"),
        (TEXTS, index_of(TEXTS, format=2), "Packed model of another version: .* Expected format 1, got 2"),
        (TEXTS, "[]", "Not a packed model"),
        (TEXTS, "", "Not a packed model"),
    ],
)
def test_a_damaged_or_foreign_model_is_refused(tmp_path: Path, texts: dict, index: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        use_model(write_zip(tmp_path / "m.zip", texts, index))
    assert not paths.experiment().is_relative_to(tmp_path / "root" / "models")


def test_no_zip_file_and_no_file_are_clear_errors(tmp_path: Path) -> None:
    (tmp_path / "m.zip").write_bytes(b"PK half")
    with pytest.raises(UserError, match="Damaged model: .*m.zip"):
        use_model(tmp_path / "m.zip")
    with pytest.raises(UserError, match="No such file: .* ./run.sh export"):
        use_model(tmp_path / "nothing.zip")


def test_every_flipped_byte_of_the_file_is_noticed(tmp_path: Path) -> None:
    data = write_zip(tmp_path / "m.zip", TEXTS, index_of(TEXTS)).read_bytes()
    start = data.index(b"<net/>")
    for position in range(start, start + 6):
        flipped = bytearray(data)
        flipped[position] ^= 1
        (tmp_path / "m.zip").write_bytes(flipped)
        with pytest.raises(UserError, match="Damaged model"):
            use_model(tmp_path / "m.zip")


def test_a_file_that_changed_after_unpacking_is_noticed(tmp_path: Path) -> None:
    file = write_zip(tmp_path / "m.zip", TEXTS, index_of(TEXTS))
    use_model(file)
    (paths.model_run("mobilenetv2@b", 0) / "network.xml").write_text("<other/>")
    with pytest.raises(UserError, match=r"network\.xml: changed"):
        use_model(file)
    use_model(file)  # it was unpacked again
