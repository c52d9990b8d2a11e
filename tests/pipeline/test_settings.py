"""Settings: strict keys and types, overrides, and all faults in one message."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import UserError
from pipeline.load_settings import load_settings
from pipeline.recorded_weights import recorded_weights
from pipeline.settings import RANGES, ModelsSettings, Settings

SETTINGS = sorted((paths.CHECKOUT / "settings").glob("*.toml"))


@pytest.fixture
def toml(tmp_path: Path):
    def write(text: str) -> Path:
        file = tmp_path / "experiment.toml"
        file.write_text(text)
        return file

    return write


def test_an_empty_file_gives_the_defaults(toml) -> None:
    assert load_settings(toml("")) == Settings()


def test_a_value_is_read_and_the_others_keep_their_defaults(toml) -> None:
    settings = load_settings(toml("[input]\nfolds = 5\n"))
    assert settings.input.folds == 5
    assert settings.phantom == Settings().phantom


def test_an_unknown_key_lists_the_nearest_names(toml) -> None:
    with pytest.raises(UserError, match=r"models\.epoch: unknown; nearest: .*epochs"):
        load_settings(toml("[models]\nepoch = 3\n"))


def test_an_unknown_section_lists_the_nearest_names(toml) -> None:
    with pytest.raises(UserError, match="modles: unknown; nearest: models"):
        load_settings(toml("[modles]\nepochs = 3\n"))


def test_a_key_without_a_similar_name_lists_all_names(toml) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(toml("[input]\nzzzz = 1\n"))
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Settings().input))


def test_all_faults_are_reported_at_once(toml) -> None:
    file = toml('[models]\nepoch = 3\n[input]\nfolds = "three"\n[phantom]\ndifficulty = 2\n')
    with pytest.raises(UserError) as caught:
        load_settings(file, overrides=["models.nonsense=1", "no-equals-sign"])
    message = str(caught.value)
    for fault in ("models.epoch:", "input.folds: expected int", "phantom.difficulty: expected str", "no-equals-sign"):
        assert fault in message
    assert "models.nonsense" in message


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ('[input]\nfolds = "3"', "input.folds: expected int, got '3'"),
        ("[input]\nfolds = 3.5", "input.folds: expected int, got 3.5"),
        ("[input]\nfolds = true", "input.folds: expected int, got True"),
        ("[input]\ndata = 7", "input.data: expected str, got 7"),
        ("[features]\nspacing_mm = true", "features.spacing_mm: expected float, got True"),
        ("[models]\nbackbones = ['mobilenetv2', 4]", "models.backbones: expected str, got 4"),
        ("input = 4", "input: expected a table, got 4"),
    ],
)
def test_a_wrong_type_is_reported_with_the_value(toml, text: str, fault: str) -> None:
    with pytest.raises(UserError, match=re.escape(fault)):
        load_settings(toml(text))


def test_an_integer_is_accepted_as_a_float_and_converted(toml) -> None:
    value = load_settings(toml("[features]\nspacing_mm = 2\n")).features.spacing_mm
    assert (value, type(value)) == (2.0, float)


def test_lists_become_tuples_so_that_settings_stay_frozen(toml) -> None:
    settings = load_settings(toml("[models]\nbackbones = ['mobilenetv2']\n"))
    assert settings.models.backbones == ("mobilenetv2",)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.models.epochs = 9


def test_overrides_are_toml_values_or_bare_words_and_the_last_wins(toml) -> None:
    settings = load_settings(
        toml("[input]\nfolds = 3\n"),
        overrides=[
            "input.folds=4",
            "input.folds = 5",
            "phantom.difficulty=hard",
            'models.backbones=["a", "b"]',
            "features.spacing_mm=1e0",
        ],
    )
    assert settings.input.folds == 5
    assert settings.phantom.difficulty == "hard"
    assert settings.models.backbones == ("a", "b")
    assert settings.features.spacing_mm == 1.0


def test_data_on_the_command_line_replaces_the_phantom(toml, tmp_path: Path) -> None:
    assert load_settings(toml("")).is_phantom
    settings = load_settings(toml(""), data=str(tmp_path))
    assert not settings.is_phantom
    assert settings.data_root == tmp_path.resolve()


def test_the_phantoms_tree_is_under_the_artifact_root(toml, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    assert load_settings(toml("[phantom]\nname='p'")).data_root == paths.raw()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"])
def test_files_of_windows_editors_are_read(tmp_path: Path, encoding: str) -> None:
    text = "# Einstellungen für Prüfung\r\n[input]\r\nfolds = 3\r\n"
    name, _, mark = encoding.partition(" with ")
    (tmp_path / "s.toml").write_bytes((("\ufeff" if mark else "") + text).encode(name))
    assert load_settings(tmp_path / "s.toml").input.folds == 3


def test_a_file_that_is_not_text_is_reported(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_bytes(b"[input]\nfolds = 3 # \xe4\n")
    with pytest.raises(UserError, match="Not a text file: .* Save it as UTF-8"):
        load_settings(tmp_path / "s.toml")


def test_invalid_toml_names_the_file_and_the_line(toml) -> None:
    with pytest.raises(UserError, match=r"Invalid TOML: .*experiment\.toml: .*line 1"):
        load_settings(toml("[input\n"))


def test_a_missing_file_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml\. The checkout has in settings/: .*phantom\.toml"):
        load_settings("settings/nowhere.toml")


def test_a_relative_file_is_found_in_the_checkout_from_anywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings("settings/phantom.toml").is_phantom


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_every_settings_file_loads_and_starts_with_command_hardware_time_and_score(file: Path) -> None:
    load_settings(file)
    lines = file.read_text().splitlines()
    head = lines[: next(index for index, line in enumerate(lines) if not line.startswith("#"))]
    for word in ("command", "hardware", "time", "score"):
        assert any(line.lstrip("# ").startswith(word) for line in head), word


def test_values_can_differ_per_backbone(toml) -> None:
    text = "[models]\nepochs = 4\n[models.per_backbone.mobilenetv2]\nlearning_rate = 1\n"
    models = load_settings(toml(text), overrides=["models.per_backbone.mobilenetv2.batch=8"]).models
    assert models.of("mobilenetv2") == dataclasses.replace(models.of("other"), learning_rate=1.0, batch=8)
    assert models.of("other").epochs == 4 and models.of("other").batch == ModelsSettings().batch


def test_faults_in_values_per_backbone_are_reported_together(toml) -> None:
    text = "[models.per_backbone.mobilenetv2]\nlearning_rat = 1\nworkers = 2\nepochs = 'x'\n"
    with pytest.raises(UserError) as caught:
        load_settings(toml(text))
    for part in (
        "mobilenetv2.learning_rat: unknown; nearest: learning_rate",
        "workers: cannot differ",
        "epochs: expected",
    ):
        assert part in str(caught.value)


def test_settings_become_plain_values_that_json_can_hold(toml) -> None:
    values = load_settings(toml(""), overrides=["models.epochs=9"]).as_dict()
    assert values["models"]["epochs"] == 9
    assert json.loads(json.dumps(values))["input"] == values["input"]


def test_all_numbers_out_of_range_are_reported(toml) -> None:
    text = (
        "[input]\nfolds = -3\n[features]\nspacing_mm = 0\n[ensemble]\ninner_folds = 1\nbootstrap = 0\nexam_rate = nan\n"
    )
    with pytest.raises(UserError) as caught:
        load_settings(toml(text))
    for fault in (
        "input.folds: expected 2 to 50, got -3", "features.spacing_mm: expected 0.2 to 5, got 0.0",
        "ensemble.inner_folds: expected 2 to 50, got 1", "ensemble.bootstrap: expected 1 to", "got nan",
    ):  # fmt: skip
        assert fault in str(caught.value)


def test_every_default_is_in_its_range() -> None:
    assert load_settings(paths.CHECKOUT / "settings" / "phantom.toml")
    assert all(low < high for low, high in RANGES.values())


def test_settings_without_paths_name_data_and_weights_by_content(toml, tmp_path: Path) -> None:
    own = tmp_path / "secret" / "own.npz"
    own.parent.mkdir()
    own.write_bytes(b"arrays")
    text = f"[models]\nweights = '{own}'\n[models.per_backbone.xception]\nweights = '{own}'\n"
    settings = load_settings(toml(text), data=str(tmp_path / "secret"))
    values = settings.without_paths()
    assert "secret" not in json.dumps(values) and values["input"]["data"] == ""
    recorded = values["models"]["weights"]
    assert recorded.startswith("own.npz sha256:")
    assert values["models"]["per_backbone"]["xception"]["weights"] == recorded
    assert settings.models.weights == str(own)


def test_weights_are_recorded_by_content_and_a_recorded_value_is_unchanged(tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    own.write_bytes(b"arrays")
    recorded = recorded_weights(str(own))
    assert recorded_weights(recorded) == recorded
    own.write_bytes(b"other arrays")
    assert recorded_weights(str(own)) != recorded
    own.unlink()
    assert recorded_weights(str(own)) == "own.npz (not there)"
    assert [recorded_weights(name) for name in ("imagenet", "none")] == ["imagenet", "none"]
