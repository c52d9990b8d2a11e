"""The finished networks applied to groups of new exams."""

import dataclasses
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from features.lung_box import Box
from features.store import write_exam
from models import apply_networks
from models.apply_networks import FinishedNetworks
from models.prediction_engine import slice_engine
from models.slice_targets import TARGETS
from models.slice_views import UNCHANGED, VIEW_SETTINGS, SliceViews
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import InputSettings, ModelsSettings, Settings
from tests.support.finished_networks import SETTINGS, write_runs

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

NAMES = ("tiny", "tiny_gem")


def settings_of(folds: int) -> Settings:
    models = dataclasses.replace(SETTINGS.models, backbones=NAMES, flip_tta=False)
    return dataclasses.replace(SETTINGS, input=InputSettings(folds=folds), models=models)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Two exams of 20 and 3 slices."""
    random = np.random.default_rng(0)
    for name, planes in (("long", 20), ("short", 3)):
        write_exam(
            tmp_path, name, "series", random.integers(-200, 400, (planes, 24, 24)).astype(np.int16),
            z_mm=np.arange(planes) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0),
            sop_uids=tuple(f"{name}-{plane}" for plane in range(planes)),
            box=Box(y0=0, y1=48, x0=0, x1=48, z0=0, z1=planes, middle_x=24.0, found=True),
        )  # fmt: skip
    return tmp_path


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict]:
    """Finished runs; fold 1 has no exported graph."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apply_networks, "require_networks", lambda settings: None)
        patch.setattr(apply_networks, "mapping_backbones", lambda settings: ("tiny",))
        yield write_runs(patch, tmp_path_factory.mktemp("root"))


def test_a_lost_graph_is_an_error(models, tmp_path, monkeypatch):
    shutil.copytree(paths.root(), tmp_path / "root", symlinks=True)
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    (paths.model_run("tiny", 0) / "network.xml").unlink()
    with pytest.raises(UserError, match=r"network\.xml: missing"):
        slice_engine(SETTINGS.models.of("tiny"), "tiny", paths.model_run("tiny", 0), 1)


#: Calls a new engine from eight threads at once.
FIRST_CALLS = """
import sys, threading
from pathlib import Path
import numpy as np
from models.prediction_engine import openvino_engine
directory, *size = sys.argv[1:]
engine = openvino_engine(Path(directory), 8, streams=8)
images, barrier = np.zeros((2, *map(int, size)), np.float32), threading.Barrier(8)
threads = [threading.Thread(target=lambda: (barrier.wait(), engine(images))) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.mark.slow
def test_threads_that_predict_for_the_first_time_at_once_do_not_wait_for_each_other(models):
    size = [str(length) for length in models["tiny"].input_shape[1:]]
    command = [sys.executable, "-c", FIRST_CALLS, str(paths.model_run("tiny", 0)), *size]
    processes = [subprocess.Popen(command, cwd=paths.CHECKOUT) for _ in range(2)]
    try:
        assert [process.wait(timeout=120) for process in processes] == [0] * 2
    finally:
        for process in processes:
            process.kill()
            process.wait()


def test_exported_networks_are_applied_without_keras(store, models, monkeypatch):
    expected = {
        name: models[name].predict_on_batch(
            np.stack([SliceViews(store, SETTINGS.models.of(name)).view("long", plane) for plane in range(20)])
        )
        for name in NAMES
    }
    monkeypatch.setitem(sys.modules, "keras", None)  # an import would now fail
    networks = FinishedNetworks(settings_of(folds=1))
    tables = networks.predict(store, ["long"]).tables
    assert list(tables) == [0] and set(tables[0]) == set(NAMES)
    for name in NAMES:
        logits = expected[name]["logits"]
        np.testing.assert_allclose(tables[0][name][["pe", *TARGETS[1:]]], 1 / (1 + np.exp(-logits)), atol=1e-3)


def test_an_exam_has_the_same_predictions_in_any_group_and_with_any_engine(store, models):
    networks = FinishedNetworks(settings_of(folds=2))
    together = networks.predict(store, ["short", "long"])
    alone = networks.predict(store, ["long"])
    for name in NAMES:
        rows = together.tables[0][name].iloc[3:].reset_index(drop=True)
        numbers = ["pe", *TARGETS[1:]]
        assert rows.iloc[:, :2].equals(alone.tables[0][name].iloc[:, :2])
        np.testing.assert_allclose(rows[numbers], alone.tables[0][name][numbers], atol=1e-6)
        np.testing.assert_allclose(together.tables[1][name][numbers], together.tables[0][name][numbers], atol=1e-3)
    assert list(together.maps) == [*(f"short-{n}" for n in range(3)), *(f"long-{n}" for n in range(20))]
    np.testing.assert_allclose(together.maps["long-4"], alone.maps["long-4"], atol=1e-6)


def test_each_network_sees_the_blood_as_it_was_trained(store, models):
    """`tiny_gem` scales HU, `tiny` does not."""
    per_backbone = {"tiny_gem": {**SETTINGS.models.per_backbone.get("tiny_gem", {}), "artery_hu": 350.0}}
    plain = settings_of(folds=1)
    scaled = dataclasses.replace(plain, models=dataclasses.replace(plain.models, per_backbone=per_backbone))
    tables = [
        FinishedNetworks(settings).predict(store, ["long"], {"long": measured}).tables[0]
        for settings, measured in ((plain, 100.0), (scaled, 350.0), (scaled, 175.0))
    ]
    for name, changes in (("tiny", False), ("tiny_gem", True)):
        pe = [table[name]["pe"].to_numpy() for table in tables]
        np.testing.assert_array_equal(pe[0], pe[1])  # a factor of 1
        assert np.array_equal(pe[1], pe[2]) != changes


@pytest.mark.parametrize("changes", [{}, {"trainable_windows": True}, {"pixel_mm": 0.0}, {"artery_hu": 350.0}], ids=str)
def test_unchanged_views_depend_on_the_view_settings_alone(store, changes):
    class Recorder:
        def __init__(self, settings: ModelsSettings) -> None:
            self.settings, self.read = settings, set()

        def __getattr__(self, name: str) -> object:
            self.read.add(name)
            return getattr(self.settings, name)

    recorder = Recorder(dataclasses.replace(SETTINGS.models, **changes))
    SliceViews(store, recorder, enhancement={"long": 200.0}).view("long", 3, UNCHANGED)
    assert recorder.read <= set(VIEW_SETTINGS)
