"""Training steps that run operation by operation: a test takes few, and tracing takes longer than these."""

import gc
from functools import cache
from typing import Any

import pytest


def run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slice and exam networks train without tracing."""
    from models import exam_training, training_run

    def compile_network(model: Any, optimizer: Any, loss: dict, loss_weights: dict | None = None) -> None:
        model.compile(optimizer=optimizer, loss=loss, loss_weights=loss_weights, run_eagerly=True)

    for module in (exam_training, training_run):
        monkeypatch.setattr(module, "compile_network", compile_network)
    keep_modules_out_of_collections()


@cache
def keep_modules_out_of_collections() -> None:
    """Exempt everything that exists now from garbage collection, once.

    Every training collects garbage. With a million objects of imported modules, that takes longer than a step.
    """
    gc.collect()
    gc.freeze()
