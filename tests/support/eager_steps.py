"""Training steps that run operation by operation: a test takes few, and tracing takes longer than these."""

import gc
from functools import cache
from typing import Any

import pytest


def run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slice networks train without tracing."""
    from models import training_run

    def compile_network(model: Any, optimizer: Any, losses: dict) -> None:
        model.compile(optimizer=optimizer, loss=losses, run_eagerly=True)

    monkeypatch.setattr(training_run, "compile_network", compile_network)
    keep_modules_out_of_collections()


@cache
def keep_modules_out_of_collections() -> None:
    """Exempt everything that exists now from garbage collection, once.

    Every training collects garbage. With a million objects of imported modules, that takes longer than a step.
    """
    gc.collect()
    gc.freeze()
