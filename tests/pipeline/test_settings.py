"""Settings: strict keys and types, overrides, and all faults in one message."""

import dataclasses
import json
import re
from pathlib import Path

import pytest

from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import RANGES, ModelsSettings, Settings, load_settings, told_weights

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


def test_a_value_is_read_and_the_rest_stays(toml) -> None:
    settings = load_settings(toml("[input]\nfolds = 5\n"))
    assert settings.input.folds == 5
    assert settings.phantom == Settings().phantom


def test_an_unknown_key_lists_the_nearest_names(toml) -> None:
    with pytest.raises(UserError, match=r"models\.epoch: unknown; nearest: .*epochs"):
        load_settings(toml("[models]\nepoch = 3\n"))


def test_an_unknown_section_lists_the_nearest_names(toml) -> None:
    with pytest.raises(UserError, match="modles: unknown; nearest: models"):
        load_settings(toml("[modles]\nepochs = 3\n"))


def test_a_key_near_to_nothing_lists_all_names(toml) -> None:
    with pytest.raises(UserError) as caught:
        load_settings(toml("[input]\nzzzz = 1\n"))
    assert all(field.name in str(caught.value) for field in dataclasses.fields(Settings().input))


def test_all_faults_are_told_at_once(toml) -> None:
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
        ('[input]\nfolds = "3"', "input.folds: expected int, found '3'"),
        ("[input]\nfolds = 3.5", "input.folds: expected int, found 3.5"),
        ("[input]\nfolds = true", "input.folds: expected int, found True"),
        ("[input]\ndata = 7", "input.data: expected str, found 7"),
        ("[features]\nspacing_mm = true", "features.spacing_mm: expected float, found True"),
        ("[models]\nbackbones = ['mobilenetv2', 4]", "models.backbones: expected str, found 4"),
        ("input = 4", "input: expected a table, found 4"),
    ],
)
def test_a_wrong_type_is_told_with_what_was_found(toml, text: str, fault: str) -> None:
    with pytest.raises(UserError, match=re.escape(fault)):
        load_settings(toml(text))


def test_a_whole_number_passes_for_a_float_and_becomes_one(toml) -> None:
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


def test_the_phantoms_tree_lies_under_the_root_of_products(toml, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    assert load_settings(toml("[phantom]\nname='p'")).data_root == tmp_path.resolve() / "input" / "raw" / "p"


def test_broken_toml_names_the_file_and_the_place(toml) -> None:
    with pytest.raises(UserError, match=r"experiment\.toml: not valid TOML: .*line 1"):
        load_settings(toml("[input\n"))


def test_a_missing_file_lists_those_that_exist() -> None:
    with pytest.raises(UserError, match=r"nowhere\.toml; the checkout has settings/: .*phantom\.toml"):
        load_settings("settings/nowhere.toml")


def test_a_relative_file_is_found_in_the_checkout_from_anywhere(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_settings("settings/phantom.toml").is_phantom


@pytest.mark.parametrize("file", SETTINGS, ids=lambda file: file.stem)
def test_every_settings_file_loads_and_opens_with_command_hardware_time_and_score(file: Path) -> None:
    load_settings(file)
    lines = file.read_text().splitlines()
    head = [line for line in lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]]
    for word in ("command", "hardware", "time", "score"):
        assert any(line.lstrip("# ").startswith(word) for line in head), word


def test_a_backbone_may_have_values_of_its_own(toml) -> None:
    text = "[models]\nepochs = 4\n[models.per_backbone.mobilenetv2]\nlearning_rate = 1\n"
    models = load_settings(toml(text), overrides=["models.per_backbone.mobilenetv2.batch=8"]).models
    assert models.of("mobilenetv2") == dataclasses.replace(models.of("other"), learning_rate=1.0, batch=8)
    assert models.of("other").epochs == 4 and models.of("other").batch == ModelsSettings().batch


def test_faults_in_a_backbones_own_values_are_told_together(toml) -> None:
    text = "[models.per_backbone.mobilenetv2]\nlearning_rat = 1\nworkers = 2\nepochs = 'x'\n"
    with pytest.raises(UserError) as caught:
        load_settings(toml(text))
    for part in (
        "mobilenetv2.learning_rat: unknown; nearest: learning_rate",
        "workers: is the same",
        "epochs: expected",
    ):
        assert part in str(caught.value)


def test_settings_become_plain_values_that_json_can_hold(toml) -> None:
    values = load_settings(toml(""), overrides=["models.epochs=9"]).as_dict()
    assert values["models"]["epochs"] == 9
    assert json.loads(json.dumps(values))["input"] == values["input"]


def test_numbers_that_no_stage_can_work_with_are_all_named(toml) -> None:
    text = (
        "[input]\nfolds = -3\n[features]\nspacing_mm = 0\n[ensemble]\ninner_folds = 1\nbootstrap = 0\nexam_rate = nan\n"
    )
    with pytest.raises(UserError) as told:
        load_settings(toml(text))
    for fault in (
        "input.folds: expected 2 to 50, found -3", "features.spacing_mm: expected 0.2 to 5, found 0.0",
        "ensemble.inner_folds: expected 2 to 50, found 1", "ensemble.bootstrap: expected 1 to", "found nan",
    ):  # fmt: skip
        assert fault in str(told.value)


def test_every_range_holds_its_default() -> None:
    assert load_settings(paths.CHECKOUT / "settings" / "phantom.toml")
    assert all(low < high for low, high in RANGES.values())


def test_what_leaves_the_house_names_data_and_weights_without_their_place(toml, tmp_path: Path) -> None:
    own = tmp_path / "secret" / "own.npz"
    own.parent.mkdir()
    own.write_bytes(b"arrays")
    text = f"[models]\nweights = '{own}'\n[models.per_backbone.xception]\nweights = '{own}'\n"
    settings = load_settings(toml(text), data=str(tmp_path / "secret"))
    values = settings.without_place()
    assert "secret" not in json.dumps(values) and values["input"]["data"] == ""
    told = values["models"]["weights"]
    assert told.startswith("own.npz sha256:") and values["models"]["per_backbone"]["xception"]["weights"] == told
    assert settings.models.weights == str(own)


def test_weights_are_told_apart_by_what_is_in_them_and_a_told_text_stays_as_it_is(tmp_path: Path) -> None:
    own = tmp_path / "own.npz"
    own.write_bytes(b"arrays")
    told = told_weights(str(own))
    assert told_weights(told) == told
    own.write_bytes(b"other arrays")
    assert told_weights(str(own)) != told
    own.unlink()
    assert told_weights(str(own)) == "own.npz (not there)"
    assert [told_weights(each) for each in ("imagenet", "none")] == ["imagenet", "none"]
