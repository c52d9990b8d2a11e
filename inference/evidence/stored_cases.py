"""Cases of the evidence report on disk, as JSON and arrays, so that an interrupted prediction resumes."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from features.acceptance_rules import Acceptance, Reason
from inference.clot_maps import ClotMap
from inference.evidence.exam_cases import ExamCase
from inference.evidence.feature_contributions import Contributions
from inference.findings import Finding
from models.arrays import load_arrays, save_arrays
from pipeline.files import read_json, write_text


def write_case(folder: Path, case: ExamCase, **facts: Any) -> None:
    """Write a case as `<name>.case.json`, which is complete when it exists, and its clot map as `<name>.clot.npz`.

    Args:
        folder: an existing folder.
        case: the case.
        facts: further JSON values, which `read_case` returns.
    """
    if case.clot:
        save_arrays(_clot_path(folder, case.name), {key: np.array(value) for key, value in _fields(case.clot).items()})
    value = _fields(case) | {
        "slices": case.slices.to_dict("list"),
        "contributions": case.contributions and _contributions_value(case.contributions),
        "findings": [_fields(finding) for finding in case.findings],
        "clot": case.clot is not None,
        "acceptance": [_fields(reason) for reason in case.acceptance.reasons],
        "facts": facts,
    }
    write_text(case_path(folder, case.name), json.dumps(value, default=lambda number: number.item()))


def read_case(folder: Path, name: str) -> tuple[ExamCase, dict[str, Any]]:
    """Read a case that `write_case` wrote, and its further values.

    Raises:
        UserError: a damaged file.
    """
    value = read_json(case_path(folder, name))
    facts = value.pop("facts")
    parts = value["contributions"]
    value |= {
        "slices": pd.DataFrame(value["slices"]),
        "flags": tuple(value["flags"]),
        "notes": tuple(value["notes"]),
        "folds": tuple(value["folds"]),
        "contributions": parts and Contributions(parts["base"], *map(pd.Series, (parts["parts"], parts["values"]))),
        "findings": tuple(Finding(**_with_tuples(finding)) for finding in value["findings"]),
        "acceptance": Acceptance(tuple(Reason(**reason) for reason in value["acceptance"])),
        "clot": _read_clot(_clot_path(folder, name)) if value["clot"] else None,
    }
    return ExamCase(**value), facts


def case_path(folder: Path, name: str) -> Path:
    """The file of a case; the case is complete when it exists."""
    return folder / f"{name}.case.json"


def _clot_path(folder: Path, name: str) -> Path:
    return folder / f"{name}.clot.npz"


def _read_clot(path: Path) -> ClotMap:
    fields: dict[str, Any] = {key: value if value.ndim else value.item() for key, value in load_arrays(path).items()}
    return ClotMap(**fields)


def _contributions_value(contributions: Contributions) -> dict[str, Any]:
    return {
        "base": contributions.base,
        "parts": contributions.parts.to_dict(),
        "values": contributions.values.to_dict(),
    }


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a dataclass, not of those inside it."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _with_tuples(value: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in value.items()}
