"""The rules of the house that an import statement can break."""

import ast
import graphlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
STAGES = ["input", "features", "models", "ensemble", "submissions", "inference"]
VAGUE = {"utils", "util", "common", "helpers", "misc"}


def sources(package: str) -> list[Path]:
    products = CHECKOUT / "models" / "weights"
    return sorted(file for file in (CHECKOUT / package).rglob("*.py") if not file.is_relative_to(products))


def imported_modules(file: Path) -> list[str]:
    """Dotted names in every import statement of a file, those inside functions too."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_stages_to_its_left(stage: str) -> None:
    right = set(STAGES[STAGES.index(stage) + 1 :])
    offences = [
        f"{file.relative_to(CHECKOUT)}: {name}"
        for file in sources(stage)
        for name in imported_modules(file)
        if name.split(".")[0] in right
    ]
    assert offences == []


def test_the_pipeline_imports_no_stage() -> None:
    offences = [
        f"{file.name}: {name}"
        for file in sources("pipeline")
        for name in imported_modules(file)
        if name.split(".")[0] in STAGES
    ]
    assert offences == []


def imported_files(file: Path) -> set[str]:
    """Modules of this checkout that a file imports by `from x import y`, deferred imports included."""
    targets = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            targets |= {name for name in names if (CHECKOUT / f"{name.replace('.', '/')}.py").is_file()}
    return targets


def test_no_two_files_import_each_other_in_a_circle() -> None:
    graph = {
        file.relative_to(CHECKOUT).with_suffix("").as_posix().replace("/", "."): imported_files(file)
        for package in ["pipeline", *STAGES]
        for file in sources(package)
    }
    try:
        tuple(graphlib.TopologicalSorter(graph).static_order())
    except graphlib.CycleError as fault:
        pytest.fail(f"import cycle: {' -> '.join(fault.args[1])}")


def test_imports_are_absolute_and_input_is_never_shadowed() -> None:
    offences = []
    for package in ["pipeline", *STAGES]:
        for file in sources(package):
            names = imported_modules(file)
            offences += [f"{file.name}: {name}" for name in names if name == "input" or name.startswith(".")]
    assert offences == []


@pytest.mark.parametrize("package", ["pipeline", *STAGES])
def test_every_package_says_what_it_is_for_and_names_no_module_vaguely(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((CHECKOUT / package / "__init__.py").read_text()))
    assert docstring is not None
    assert len(docstring) > 80
    assert VAGUE.isdisjoint(file.stem for file in sources(package))


@pytest.mark.parametrize("package", ["pipeline", *STAGES])
def test_every_module_says_what_it_is_for(package: str) -> None:
    assert [file.name for file in sources(package) if not ast.get_docstring(ast.parse(file.read_text()))] == []


@pytest.mark.parametrize("module", ["__main__", "environment", "plan", "doctor", "settings", "cli", "paths", "errors"])
def test_what_runs_before_the_set_up_needs_only_the_standard_library(module: str) -> None:
    tree = ast.parse((CHECKOUT / "pipeline" / f"{module}.py").read_text())
    third_party = {"numpy", "pandas", "tqdm", "joblib", "keras", "tensorflow", "blosc2", "pydicom", "lightgbm"}
    heavy = {"pipeline.files", "pipeline.console", "pipeline.artifact", "pipeline.jobs"}
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert third_party.isdisjoint(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in heavy
            assert (node.module or "").split(".")[0] not in third_party


def test_no_label_list_is_written_twice() -> None:
    name = "acute_and_chronic_pe"
    pairs = {("rightsided_pe", name), (name, "central_pe")}  # neighbours in the contest's own order
    offences = []
    for package in ["pipeline", *STAGES]:
        for file in sources(package):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.List | ast.Tuple):
                    words = [each.value for each in node.elts if isinstance(each, ast.Constant)]
                    if pairs <= set(zip(words, words[1:], strict=False)):
                        offences.append(file.relative_to(CHECKOUT).as_posix())
    assert set(offences) <= {"input/contest.py"}


def test_the_formatter_and_linter_are_set_once() -> None:
    ruff = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["line-length"] == 120
    assert {"E", "F", "I", "B", "UP", "NPY", "A", "S101"} <= set(ruff["lint"]["select"])
    assert "F821" not in ruff["lint"].get("ignore", [])


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(each for extra in extras.values() for each in extra)]
    declared = {re.match(r"[A-Za-z0-9-]+", each)[0] for each in requirements}
    wheels = {
        "cv2": "opencv-python-headless",
        "gdcm": "python-gdcm",
        "PIL": "pillow",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "tensorboardX": "tensorboardx",
    }
    tops = {
        name.split(".")[0]
        for package in ["pipeline", *STAGES]
        for file in sources(package)
        for name in imported_modules(file)
    }
    foreign = tops - sys.stdlib_module_names - {"pipeline", *STAGES}
    assert {wheels.get(name, name) for name in foreign} <= declared
