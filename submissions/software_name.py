"""What this software calls itself in files that leave the house."""

import tomllib

from pipeline import paths
from pipeline.artifact import read_manifest

#: Stands in every object for a PACS, in the model card and in the notebook.
RESEARCH_USE_ONLY = "Research use only. Not for diagnosis."


def project() -> dict[str, str]:
    """`name`, `version`, `description` and `license` from pyproject.toml."""
    return tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]


def algorithm_version() -> str:
    """The software's version and the identity of the finished ensemble: the same text means the same answers."""
    return f"{project()['version']}+{read_manifest(paths.ensemble_run())['identity']}"
