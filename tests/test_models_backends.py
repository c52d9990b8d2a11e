"""Every kind of network trains two steps on every Keras backend that is installed."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from pipeline import paths


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_every_kind_of_network_trains_two_steps(backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(paths.CHECKOUT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.backend_steps"], env=environment, cwd=paths.CHECKOUT, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == backend
    assert len(found["networks"]) == 5
    for name, steps in found["networks"].items():
        first, second = steps["losses"]
        assert second < first + 0.05 < 100, name  # a small step on the same batch: not uphill, and no NaN
        assert steps["moved"] > 0.7, name
        assert steps.get("average kept", True), name
        assert steps["xla"] == (backend == "jax"), name  # on TensorFlow's CPU it is several times slower
