"""Rules of the code base: imports, file sizes, docstrings and tool configuration."""

import ast
import graphlib
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parent.parent
STAGES = ["input", "features", "models", "ensemble", "submissions", "inference"]
#: Source files may have so many lines; tests may be longer.
LONGEST_FILE = 300
VAGUE = {"utils", "util", "common", "helpers", "misc"}
BEFORE_SET_UP = [
    "pipeline/__main__", "pipeline/cli", "pipeline/console", "pipeline/doctor", "pipeline/earlier_layout",
    "pipeline/environment", "pipeline/errors", "pipeline/estimates", "pipeline/experiments", "pipeline/front_door",
    "pipeline/identity", "pipeline/load_settings", "pipeline/machine", "pipeline/paths", "pipeline/plan",
    "pipeline/recorded_weights", "pipeline/run_lock", "pipeline/run_stage", "pipeline/settings",
    "pipeline/settings_text", "pipeline/stage_plan", "pipeline/stages", "input/estimate", "features/estimate",
    "models/estimate", "models/network_names", *(f"{stage}/__main__" for stage in STAGES),
]  # fmt: skip
#: Words of stages' facts, which belong to the stages' `estimate` and `network_names` modules.
STAGE_FACTS = r"GMACS|gmacs|CONTEST_|SLICES|BYTES_PER|POOLINGS|mobilenet|efficientnet|densenet|_gru\b|StudyInstanceUID"


def sources(package: str) -> list[Path]:
    artifacts = CHECKOUT / "models" / "weights"
    return sorted(file for file in (CHECKOUT / package).rglob("*.py") if not file.is_relative_to(artifacts))


@cache
def parsed(file: Path) -> ast.Module:
    """The syntax tree of a file, which several tests read."""
    return ast.parse(file.read_text())


@cache
def imported_modules(file: Path) -> list[str]:
    """Dotted names in every import statement of a file, including those inside functions."""
    names = []
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append("." * node.level + (node.module or ""))
    return names


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_imports_only_stages_to_its_left(stage: str) -> None:
    right = set(STAGES[STAGES.index(stage) + 1 :])
    violations = [
        f"{file.relative_to(CHECKOUT)}: {name}"
        for file in sources(stage)
        for name in imported_modules(file)
        if name.split(".")[0] in right
    ]
    assert violations == []


def test_the_pipeline_imports_no_stage() -> None:
    violations = [
        f"{file.name}: {name}"
        for file in sources("pipeline")
        for name in imported_modules(file)
        if name.split(".")[0] in STAGES
    ]
    assert violations == []


def test_the_pipeline_holds_no_facts_of_a_stage() -> None:
    """Defaults of settings name backbones; no other line of the pipeline may."""
    violations = [
        f"{file.name}: {line.strip()}"
        for file in sources("pipeline")
        if file.name != "settings.py"
        for line in file.read_text().splitlines()
        if re.search(STAGE_FACTS, line)
    ]
    assert violations == []


def test_library_code_and_benchmarks_import_no_tests() -> None:
    violations = [
        f"{file.relative_to(CHECKOUT)}: {name}"
        for package in ["pipeline", *STAGES, "benchmarks"]
        for file in sources(package)
        for name in imported_modules(file)
        if name.split(".")[0] == "tests"
    ]
    assert violations == []


def test_no_source_file_is_too_long() -> None:
    lengths = {
        file.relative_to(CHECKOUT).as_posix(): len(file.read_text().splitlines())
        for package in ["pipeline", *STAGES, "benchmarks"]
        for file in sources(package)
    }
    assert {file: lines for file, lines in lengths.items() if lines > LONGEST_FILE} == {}


def imported_files(file: Path) -> set[str]:
    """Modules of this checkout that a file imports by `from x import y`, including imports inside functions."""
    targets = set()
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
            targets |= {name for name in names if (CHECKOUT / f"{name.replace('.', '/')}.py").is_file()}
    return targets


def test_there_are_no_import_cycles_between_files() -> None:
    graph = {
        file.relative_to(CHECKOUT).with_suffix("").as_posix().replace("/", "."): imported_files(file)
        for package in ["pipeline", *STAGES]
        for file in sources(package)
    }
    cycle: list[str] = []
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as fault:
        cycle = fault.args[1]
    assert cycle == []


def test_imports_are_absolute_and_input_is_never_shadowed() -> None:
    violations = []
    for package in ["pipeline", *STAGES]:
        for file in sources(package):
            names = imported_modules(file)
            violations += [f"{file.name}: {name}" for name in names if name == "input" or name.startswith(".")]
    assert violations == []


@pytest.mark.parametrize("package", ["pipeline", *STAGES])
def test_every_package_has_a_docstring_and_no_vaguely_named_module(package: str) -> None:
    docstring = ast.get_docstring(ast.parse((CHECKOUT / package / "__init__.py").read_text()))
    assert docstring is not None
    assert len(docstring) > 80
    assert VAGUE.isdisjoint(file.stem for file in sources(package))


@pytest.mark.parametrize("package", ["pipeline", *STAGES])
def test_every_module_has_a_docstring(package: str) -> None:
    assert [file.name for file in sources(package) if not ast.get_docstring(parsed(file))] == []


@pytest.mark.parametrize("module", BEFORE_SET_UP)
def test_what_runs_before_the_set_up_imports_only_the_standard_library(module: str) -> None:
    tree = ast.parse((CHECKOUT / f"{module}.py").read_text())
    third_party = {"numpy", "pandas", "tqdm", "joblib", "keras", "tensorflow", "blosc2", "pydicom", "lightgbm"}
    heavy = {"pipeline.files", "pipeline.artifact", "pipeline.jobs", "pipeline.cluster"}
    for node in tree.body:
        if isinstance(node, ast.Import):
            assert third_party.isdisjoint(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module not in heavy
            assert (node.module or "").split(".")[0] not in third_party


def test_no_label_list_is_written_twice() -> None:
    name = "acute_and_chronic_pe"
    pairs = {("rightsided_pe", name), (name, "central_pe")}  # neighbours in the contest's own order
    violations = []
    for package in ["pipeline", *STAGES]:
        for file in sources(package):
            for node in ast.walk(parsed(file)):
                if isinstance(node, ast.List | ast.Tuple):
                    words = [element.value for element in node.elts if isinstance(element, ast.Constant)]
                    if pairs <= set(zip(words, words[1:], strict=False)):
                        violations.append(file.relative_to(CHECKOUT).as_posix())
    assert set(violations) <= {"input/contest.py"}


def test_formatter_and_linter_are_configured() -> None:
    ruff = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert ruff["line-length"] == 120
    assert {"E", "F", "I", "B", "UP", "NPY", "A", "S101"} <= set(ruff["lint"]["select"])
    assert "F821" not in ruff["lint"].get("ignore", [])


def test_the_type_checker_is_configured() -> None:
    mypy = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["mypy"]
    assert {"pipeline", *STAGES} <= set(mypy["packages"])
    assert mypy["disallow_untyped_defs"] and mypy["check_untyped_defs"] and mypy["warn_unused_ignores"]
    assert not mypy.get("ignore_errors") and not mypy.get("ignore_missing_imports")


def test_every_imported_library_is_declared() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    requirements = [*project["dependencies"], *(name for extra in extras.values() for name in extra)]
    declared = {re.match(r"[A-Za-z0-9-]+", requirement)[0] for requirement in requirements}
    wheels = {
        "cv2": "opencv-python-headless",
        "gdcm": "python-gdcm",
        "mlflow": "mlflow-skinny",
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
