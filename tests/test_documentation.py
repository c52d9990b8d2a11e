"""The documentation: commands are accepted, files and links exist, and the README stays short."""

import dataclasses
import importlib
import re
import shlex
import tomllib
from argparse import ArgumentParser, Namespace
from pathlib import Path
from unittest.mock import patch

import pytest

from pipeline import paths
from pipeline.front_door import SHORTCUTS
from pipeline.front_door import parse as parse_main_job
from pipeline.load_settings import load_settings
from pipeline.settings import Settings
from pipeline.stages import MAIN_COMMANDS

README = paths.CHECKOUT / "README.md"
ARCHITECTURE = paths.CHECKOUT / "docs" / "architecture.md"
DOCUMENTS = [
    README, *sorted((paths.CHECKOUT / "docs").glob("*.md")), paths.CHECKOUT / "CONTRIBUTING.md",
    paths.CHECKOUT / "benchmarks" / "README.md",
]  # fmt: skip
README_WORDS = 1000
RUN_SH = "./run.sh"
#: Words of command templates such as `./run.sh STAGE VERB`, which cannot be parsed.
TEMPLATE_WORDS = {"STAGE", "VERB", "NAME", "COMMAND"}
PACKAGES = (*MAIN_COMMANDS, "pipeline", "benchmarks")
SOURCE_SUFFIXES = {".py", ".j2", ".js", ".css"}
NAMED_FILE_SUFFIXES = (".py", ".sh", ".toml", ".lock", ".css", ".js", ".j2", ".yml")
FENCED = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", flags=re.MULTILINE | re.DOTALL)


def name_of(document: Path) -> str:
    return document.relative_to(paths.CHECKOUT).as_posix()


def without_blocks(text: str) -> str:
    """The text without fenced blocks."""
    return FENCED.sub("", text)


def inline_code(document: Path) -> list[str]:
    """Inline code of a document, each on one line."""
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", without_blocks(document.read_text()))]


def without_variables(words: list[str]) -> list[str]:
    """A command without leading assignments such as KERAS_BACKEND=jax."""
    while words and re.match(r"[A-Z_]+=", words[0]):
        words = words[1:]
    return words


def block_commands(document: Path) -> list[list[str]]:
    """The commands in bash blocks of a document, as words."""
    blocks = [block for _, language, block in FENCED.findall(document.read_text()) if language == "bash"]
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    commands = [without_variables(shlex.split(line, comments=True)) for line in lines]
    return [words for words in commands if words]


def inline_commands(document: Path) -> list[list[str]]:
    """Inline code of a document that calls run.sh with arguments, as words."""
    commands = [without_variables(shlex.split(code)) for code in inline_code(document) if RUN_SH in code]
    return [
        words
        for words in commands
        if words[0] == RUN_SH and TEMPLATE_WORDS.isdisjoint(words) and not is_bare_command(words[1:])
    ]


def is_bare_command(words: list[str]) -> bool:
    """Whether the words are a command without arguments, such as `predict` or `input phantom`, as text mentions it."""
    if len(words) == 2:
        return words[0] in (*MAIN_COMMANDS, "pipeline") and words[1] in verbs_of(words[0])
    return len(words) == 1 and words[0] in SHORTCUTS


class Accepted(Exception):
    """Raised instead of running a benchmark whose arguments were accepted."""


def parser_of(stage: str) -> ArgumentParser:
    """The parser of a stage's command line."""
    return importlib.import_module(f"{stage}.__main__").parser()


def verbs_of(stage: str) -> set[str]:
    """The verbs of a stage."""
    actions = [action for action in parser_of(stage)._actions if action.dest == "verb"]
    return set(actions[0].choices or ())


def parse_benchmark(name: str, words: list[str]) -> None:
    """Call the main function of a benchmark until it has parsed its arguments."""
    parse_args = ArgumentParser.parse_args

    def parse_only(parser: ArgumentParser) -> None:
        parse_args(parser, words)
        raise Accepted

    with patch.object(ArgumentParser, "parse_args", parse_only), pytest.raises(Accepted):
        importlib.import_module(f"benchmarks.{name}").main()


def parse(words: list[str]) -> Namespace | None:
    """Parse the words after ./run.sh as run.sh does; the parsers exit with status 2 if they refuse them."""
    command = words[0] if words else ""
    if command in (*MAIN_COMMANDS, "pipeline"):
        return parse_stage(command, words[1:])
    if command in ("doctor", "lock"):
        return parse_stage("pipeline", words)
    if command == "bench":
        return parse_benchmark(words[1], words[2:])
    if command in ("scheduler", "worker"):
        importlib.import_module(f"distributed.cli.dask_{command}").main.make_context(command, words[1:])
        return None
    if command == "test":
        assert [word for word in words if word.endswith(".py") and not (paths.CHECKOUT / word).is_file()] == []
        return None
    if command in SHORTCUTS:
        stages = [stage for stage in MAIN_COMMANDS if command in verbs_of(stage)]
        assert len(stages) == 1, f"{command} is a verb of {stages}"
        return parse_stage(stages[0], words)
    return parse_main_job([*words, "--dry-run"])  # a dry run accepts --data DIR without looking for the folder


def parse_stage(stage: str, words: list[str]) -> Namespace:
    parser = parser_of(stage)
    return parser.parse_known_args(words)[0] if words[0] == "lock" else parser.parse_args(words)


COMMANDS = sorted(
    {
        (name_of(document), shlex.join(words))
        for document in DOCUMENTS
        for words in (*block_commands(document), *inline_commands(document))
    }
)


@pytest.mark.parametrize(
    ("document", "command"),
    [
        pytest.param(
            document, command, id=f"{document}: {command}",
            marks=[pytest.mark.slow] if command.startswith(f"{RUN_SH} bench ") else [],  # benchmarks import Keras
        )
        for document, command in COMMANDS
    ],
)  # fmt: skip
def test_every_command_is_accepted(document: str, command: str) -> None:
    program, *words = shlex.split(command)
    if program != RUN_SH:
        assert program == ".ci/run", f"{document}: {command}: expected ./run.sh"
        assert (paths.CHECKOUT / program).is_file()
        return
    if "--help" in words:
        words = [word for word in words if word != "--help"]
        assert not words or words[0] in SHORTCUTS
        return
    arguments = parse(words)
    if hasattr(arguments, "settings") and hasattr(arguments, "overrides"):
        load_settings(arguments.settings, overrides=arguments.overrides)


def test_documents_contain_commands() -> None:
    assert {"README.md", "docs/contest.md", "docs/kaggle.md", "docs/predict.md"} <= {name for name, _ in COMMANDS}


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documents_use_the_front_door_only(document: Path) -> None:
    assert re.findall(r"python3? -m [a-z_]+|\.venv/bin/python", document.read_text()) == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_settings_in_inline_code_exist(document: Path) -> None:
    sections = "|".join(field.name for field in dataclasses.fields(Settings))
    unknown = []
    for code in inline_code(document):
        setting = re.fullmatch(rf"((?:{sections})(?:\.[a-z_0-9]+)+)(?: = .*)?", code)
        if setting and not (is_setting(setting[1]) or is_module(setting[1])):
            unknown.append(code)
    assert unknown == []


def is_setting(name: str) -> bool:
    value: object = Settings()
    for part in name.split("."):
        if not hasattr(value, part):
            return False
        value = getattr(value, part)
    return True


def is_module(name: str) -> bool:
    path = paths.CHECKOUT / name.replace(".", "/")
    return path.is_dir() or path.with_suffix(".py").is_file()


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_files_in_inline_code_exist(document: Path) -> None:
    named = {code for code in inline_code(document) if "/" in code and " " not in code}
    sources = {name for name in named if name.endswith(NAMED_FILE_SUFFIXES)}
    assert {name for name in sources if not (paths.CHECKOUT / name).is_file()} == set()


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@pytest.mark.parametrize("document", [*DOCUMENTS, paths.CHECKOUT / "CHANGELOG.md"], ids=name_of)
def test_relative_links_resolve(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(\s*([^)\s]+)\)", without_blocks(document.read_text())):
        if re.match(r"https?://", target):
            continue
        name, _, section = target.partition("#")
        file = document.parent / name if name else document
        headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE) if section and file.is_file() else []
        if not file.exists() or (section and section not in map(anchor, headings)):
            broken.append(target)
    assert broken == []


def test_the_readme_is_short() -> None:
    assert len(README.read_text().split()) <= README_WORDS


def files_in_tree() -> set[str]:
    """The files in the tree of docs/architecture.md, as paths; a line is indented by two spaces per folder."""
    section = ARCHITECTURE.read_text().split("\n## Files\n")[1]
    files, folders = set(), list[str]()
    for line in FENCED.findall(section)[0][2].splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2
        folders = folders[:depth]
        if name.endswith("/"):
            folders.append(name)
        else:
            files.add("".join(folders) + name)
    return files


def test_every_file_in_the_tree_exists() -> None:
    assert {file for file in files_in_tree() if not (paths.CHECKOUT / file).is_file()} == set()


def test_the_tree_lists_every_source_file() -> None:
    downloaded = paths.CHECKOUT / "models" / "weights"
    sources = {
        file.relative_to(paths.CHECKOUT).as_posix()
        for package in PACKAGES
        for file in (paths.CHECKOUT / package).rglob("*")
        if file.suffix in SOURCE_SUFFIXES and not file.is_relative_to(downloaded)
    }
    assert sources - files_in_tree() == set()


def test_the_citation_matches_the_project() -> None:
    project = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]
    citation = dict(re.findall(r"^([a-z-]+): (.+)$", (paths.CHECKOUT / "CITATION.cff").read_text(), flags=re.MULTILINE))
    assert {name: citation[name] for name in ("title", "version", "license", "abstract")} == {
        "title": project["name"],
        "version": project["version"],
        "license": project["license"],
        "abstract": project["description"],
    }


def test_the_changelog_has_the_current_version() -> None:
    version = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]["version"]
    headings = re.findall(r"^## \[(.+?)\]", (paths.CHECKOUT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] == "Unreleased" and version in headings
