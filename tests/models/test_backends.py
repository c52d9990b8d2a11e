"""Every kind of network trains two steps on every Keras backend that is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from pipeline import paths


def _printed(backend: str, *command: str):
    """What a Python process on a backend prints as its last line, JSON; skips where the backend is not installed."""
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(paths.CHECKOUT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, *command], env=environment, cwd=paths.CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


FIXED = {
    "tensorflow": "from tensorflow.python.framework.config import is_op_determinism_enabled as fixed; "
    "import tensorflow; threads = tensorflow.config.threading.get_intra_op_parallelism_threads",
    "torch": "from torch import are_deterministic_algorithms_enabled as fixed, get_num_threads as threads",
}


@pytest.mark.slow
@pytest.mark.parametrize("backend", FIXED)
def test_threads_and_the_order_of_sums_are_fixed(backend):
    lines = (
        "import json",
        "from models.slice_runs import prepare_backend",
        "from pipeline.settings import ModelsSettings",
        "prepare_backend(ModelsSettings(), 3)",
        FIXED[backend],
        "print(json.dumps([threads(), fixed()]))",
    )
    assert _printed(backend, "-c", "\n".join(lines)) == [3, True]


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_kind_of_network_trains_two_steps(backend):
    found = _printed(backend, "-m", "tests.support.backend_steps")
    assert found["backend"] == backend
    assert len(found["networks"]) == 5
    for name, steps in found["networks"].items():
        first, second = steps["losses"]
        assert second < first + 0.05 < 100, name  # a small step on the same batch: not uphill, and no NaN
        assert steps["moved"] > 0.7, name
        assert steps.get("average kept", True), name
        assert steps["xla"] == (backend == "jax"), name  # on TensorFlow's CPU it is several times slower
