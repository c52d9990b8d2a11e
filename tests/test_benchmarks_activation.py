"""The benchmark of the activation maps measures the kind that it names."""

import pandas as pd
import pytest

from benchmarks import activation
from input.contest import STUDY
from models.activation import KINDS
from pipeline.settings import Settings


@pytest.mark.parametrize("kind", KINDS)
def test_the_maps_are_of_the_kind_that_is_asked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(activation, "finished", lambda settings, backbone: [0, 1])
    monkeypatch.setattr(activation, "SliceViews", lambda store, recipe: None)
    monkeypatch.setattr(activation, "load_activation_maps", lambda *_, kind="", **__: loaded.append(kind))
    assert list(activation.cases(Settings(), "mobilenetv2", kind, pd.DataFrame({STUDY: []}), 4)) == []
    assert loaded == [kind, kind]
