"""What results depend on besides settings: library versions and this project's source, recorded in manifests."""

import hashlib
from functools import cache
from importlib import metadata

from pipeline import paths

LIBRARIES = (
    "tensorflow-cpu",
    "tensorflow",
    "keras",
    "lightgbm",
    "numpy",
    "pandas",
    "scikit-learn",
    "scipy",
    "openvino",
    "jax",
    "torch",
    "pydicom",
    "python-gdcm",
    "pylibjpeg",
    "pylibjpeg-openjpeg",
    "pyjpegls",
    "pillow",
    "opencv-python-headless",
    "pyarrow",
    "blosc2",
)


@cache
def library_versions() -> dict[str, str]:
    """Installed versions of the libraries that results depend on."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def source_hash(package: str) -> str:
    """Hash of a stage's Python source, recorded to detect that the source has changed."""
    digest = hashlib.sha256()
    for file in sorted((paths.CHECKOUT / package).rglob("*.py")):
        digest.update(file.relative_to(paths.CHECKOUT).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
