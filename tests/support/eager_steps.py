"""Training steps that run operation by operation: a test takes few, and tracing takes longer than these."""

from typing import Any

import pytest


def run_eagerly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let slice networks train without tracing."""
    from models import training_run

    def compile_network(model: Any, optimizer: Any, losses: dict) -> None:
        model.compile(optimizer=optimizer, loss=losses, run_eagerly=True)

    monkeypatch.setattr(training_run, "compile_network", compile_network)
