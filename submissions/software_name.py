"""Name, version and disclaimer of this software in files for users."""

import tomllib

from pipeline import paths
from pipeline.artifact import read_manifest

#: Part of every DICOM object, the model card and the notebook.
RESEARCH_USE_ONLY = "Research use only. Not for diagnosis."


def project() -> dict[str, str]:
    """`name`, `version`, `description` and `license` from pyproject.toml."""
    return tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]


def algorithm_version() -> str:
    """The software's version and the identity of the finished ensemble; equal texts mean equal predictions."""
    return f"{project()['version']}+{read_manifest(paths.ensemble_run())['identity']}"
