"""Blends: the settings that describe the networks of several experiments."""

import dataclasses
from pathlib import Path

import pytest

from models.network_artifacts import exam_network_artifact, network_artifact
from models.network_names import network_names
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.load_settings import load_settings
from pipeline.settings import Settings
from pipeline.settings_text import settings_text
from submissions.blend_experiments import blended_settings


@pytest.fixture(autouse=True)
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    return tmp_path


def experiment(name: str, *overrides: str, store: str = "store") -> Settings:
    """An experiment with the inputs of its networks."""
    paths.select_experiment(name)
    for folder, identity in ((paths.prepared(), "tables"), (paths.store(), store), (paths.masks(), "masks")):
        write_json(folder / "manifest.json", {"identity": identity})
    exam_networks = 'models.exam.kinds=["gru"]', 'models.exam.backbones=["mobilenetv2"]'
    return load_settings("settings/phantom.toml", overrides=(*exam_networks, *overrides))


def identities(settings: Settings) -> dict[str, str]:
    """Network -> identity, of fold 0."""
    models = settings.models
    found = {backbone: network_artifact(settings, backbone, 0).identity for backbone in models.backbones}
    for backbone in models.exam.backbones:
        found[f"{backbone}_gru"] = exam_network_artifact(settings, backbone, 0, "gru").identity
    return found


def test_a_blend_has_exactly_the_networks_of_its_origins(tmp_path: Path) -> None:
    origins = {"a": experiment("a"), "b,x=1": experiment("b,x=1", "models.seed=18")}
    blend = blended_settings(origins)
    assert network_names(blend.models) == (
        "efficientnet_lite0@a", "mobilenetv2@a", "efficientnet_lite0@b-x-1", "mobilenetv2@b-x-1",
        "mobilenetv2@a_gru", "mobilenetv2@b-x-1_gru",
    )  # fmt: skip
    assert set(identities(blend).values()) == {
        identity for settings in origins.values() for identity in identities(settings).values()
    }
    (tmp_path / "blend.toml").write_text(settings_text(blend.as_dict(), "blend"))
    assert load_settings(tmp_path / "blend.toml") == blend


def test_equal_networks_occur_once() -> None:
    origins = {"a": experiment("a"), "b": experiment("b", 'models.backbones=["mobilenetv2","densenet121"]')}
    assert blended_settings(origins).models.backbones == ("efficientnet_lite0", "mobilenetv2", "densenet121")


def test_experiments_that_do_not_fit_together_are_refused() -> None:
    first = experiment("a")
    with pytest.raises(UserError, match=r"(?s)b: other \[features\] than a.*b: models\.exam\.units: 24 instead of 48"):
        blended_settings({"a": first, "b": experiment("b", "models.exam.units=24", store="other")})


def test_an_experiment_without_exam_networks_fits() -> None:
    origins = {"a": experiment("a", "models.exam.kinds=[]"), "b": experiment("b", "models.seed=18")}
    blend = blended_settings(origins)
    assert blend.models.exam.backbones == ("mobilenetv2@b",)
    assert dataclasses.replace(blend, models=origins["a"].models) == origins["a"]
