"""Training of every kind of network on every installed Keras backend."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from models.device import onednn_is_limited
from pipeline import paths

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow


def _run_python(backend: str, *command: str):
    """Return the last output line (JSON) of a Python process on a backend; skip if the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(paths.CHECKOUT), "JAX_PLATFORMS": "cpu"}
    process = subprocess.run(
        [sys.executable, *command], env=environment, cwd=paths.CHECKOUT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads(process.stdout.splitlines()[-1])


FIXED = {
    "tensorflow": "from tensorflow.python.framework.config import is_op_determinism_enabled as fixed; "
    "import tensorflow; threads = tensorflow.config.threading.get_intra_op_parallelism_threads",
    "torch": "from torch import are_deterministic_algorithms_enabled as fixed, get_num_threads as threads",
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", FIXED)
def test_prepare_backend_sets_threads_and_determinism(backend):
    lines = (
        "import json",
        "from models.device import prepare_backend",
        "from pipeline.settings import ModelsSettings",
        "prepare_backend(ModelsSettings(), 3)",
        FIXED[backend],
        "print(json.dumps([threads(), fixed()]))",
    )
    assert _run_python(backend, "-c", "\n".join(lines)) == [3, True]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_every_kind_of_network_trains_two_steps(backend):
    results = _run_python(backend, "-m", "tests.support.backend_steps")
    assert results["backend"] == backend
    assert len(results["networks"]) == 5 - 2 * onednn_is_limited() + 2
    for name, steps in results["networks"].items():
        _assert_trained(steps, backend, name)


def test_a_network_with_layers_of_every_kind_trains_two_steps_on_tensorflow(monkeypatch):
    import keras

    from models.backbones import BACKBONES
    from tests.support.backend_steps import BACKBONE, ON_TENSORFLOW, slice_steps

    if keras.backend.backend() != "tensorflow":
        pytest.skip("another backend")
    monkeypatch.setitem(BACKBONES, "tiny", BACKBONE)
    for name, recipe in ON_TENSORFLOW.items():
        _assert_trained(slice_steps(recipe), "tensorflow", name)


def _assert_trained(steps, backend, name):
    """The two training steps of a network are sound."""
    first, second = steps["losses"]
    assert second < first + 0.05 < 100, name  # a small step on the same batch: no increase, and no NaN
    assert steps["changed"] > 0.7, name
    assert steps.get("average unchanged", True), name
    assert steps["xla"] == (backend == "jax"), name  # on TensorFlow's CPU it is several times slower
