"""The hardware of this machine, as recorded in manifests and in the model card."""

import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from pipeline.machine import cores, memory_bytes


def hardware() -> dict[str, Any]:
    """Processor, usable cores, memory (GB) and graphics cards."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": cores(),
        "memory_gb": round(memory_bytes() / 1e9, 1),
        "graphics": _graphics_cards(),
    }


def _graphics_cards() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")[:-1]
    except (OSError, subprocess.SubprocessError):
        return []
