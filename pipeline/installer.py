"""Installation of locked packages with uv, which is fetched as a wheel if the machine has none; standard library only.

uv downloads in parallel and installs a whole environment in seconds. Its output is summarised in a line every few
seconds, so that a long download never looks dead. Hashes are checked for every file, uv's own included.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from pipeline import paths
from pipeline.errors import UserError

#: The lock file of uv itself.
UV_LOCK = "requirements-uv.lock"
SECONDS_PER_LINE = 5.0
#: Signs in the output of pip and uv.
DISK_FULL = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
INDEX_UNREACHABLE = (
    "NewConnectionError", "ConnectTimeoutError", "ReadTimeoutError", "ProxyError", "SSLError", "name resolution",
    "Failed to fetch", "error sending request", "No matching distribution found",
)  # fmt: skip
#: Variables that would install somewhere else than into the environment.
PIP_TARGETS = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT")
#: Options of pip's configuration -> uv's variables.
PIP_OPTIONS = {
    "index-url": "UV_DEFAULT_INDEX", "extra-index-url": "UV_INDEX", "find-links": "UV_FIND_LINKS",
    "trusted-host": "UV_INSECURE_HOST", "cert": "SSL_CERT_FILE",
}  # fmt: skip
_LOCKED_ONLY = ("--require-hashes", "--only-binary", ":all:")
_MEGABYTES = {"KiB": 1 / 1024, "MiB": 1.0, "GiB": 1024.0}


def new_environment(venv: Path, lock: Path) -> None:
    """Make an environment and install a lock file into it.

    Args:
        venv: its folder; replaced.
        lock: the lock file.

    Raises:
        UserError: the installation failed.
    """
    started = time.monotonic()
    base = getattr(sys, "_base_executable", sys.executable)
    shutil.rmtree(venv, ignore_errors=True)
    print(f"set-up: make {paths.shown(venv)}", flush=True)
    if shutil.which("uv"):
        run_installer("uv", "venv", "--quiet", "--python", base, str(venv))
    else:
        run_installer(base, "-m", "venv", str(venv))
    print(f"set-up: install {_count(lock)} packages from {lock.name} into {paths.shown(venv)}", flush=True)
    # Where Python may not write bytecode, every process would compile TensorFlow and Keras again: ten seconds.
    _install(venv, *(["--compile-bytecode"] if sys.dont_write_bytecode else []), "-r", str(lock))
    print(f"set-up: installed in {time.monotonic() - started:.0f} s", flush=True)


def unpack_wheels(venv: Path, directory: Path, lock: Path) -> None:
    """Unpack locked wheels into a folder, without their dependencies.

    Raises:
        UserError: the download failed.
    """
    _install(venv, "--no-deps", "--target", str(directory), "-r", str(lock))


def find_uv(venv: Path) -> str | None:
    """The machine's uv, or the one that the set-up has put into `venv`; None without either."""
    own = venv / "bin" / "uv"
    return shutil.which("uv") or (str(own) if own.is_file() else None)


def _fetch_uv(venv: Path) -> str:
    """Install the locked uv into an environment with pip; return its path."""
    print(f"set-up: fetch uv into {paths.shown(venv)}", flush=True)
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "-qq"]
    run_installer(*pip, *_LOCKED_ONLY, "-r", str(paths.CHECKOUT / UV_LOCK))
    return str(venv / "bin" / "uv")


def _install(venv: Path, *options: str) -> None:
    """Install with uv; a uv from its wheel uses the index that pip is configured for."""
    uv = find_uv(venv) or _fetch_uv(venv)
    python = venv / "bin" / "python"
    variables = {} if shutil.which("uv") else pip_options(python)
    command = [uv, "pip", "install", "--python", str(python), *_LOCKED_ONLY, *options]
    run_installer(*command, variables=variables, watch=Downloads().line)


def pip_options(python: Path) -> dict[str, str]:
    """uv's variables for the package index that pip is configured for; the user's own variables have precedence."""
    listed = subprocess.run([str(python), "-m", "pip", "config", "list"], capture_output=True, text=True)
    options = dict(re.findall(r"^(?:global|user|site|install|:env:)\.([a-z-]+)='(.*)'$", listed.stdout, re.MULTILINE))
    variables = {PIP_OPTIONS[name]: value for name, value in options.items() if name in PIP_OPTIONS}
    if "UV_INDEX" in variables:  # pip treats all indexes alike; the hashes decide what is installed
        variables["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    return {name: value for name, value in variables.items() if name not in os.environ}


class Downloads:
    """Progress of uv's downloads, from the lines that it prints for larger packages."""

    def __init__(self) -> None:
        self._megabytes: dict[str, float] = {}
        self._finished: set[str] = set()
        self._started = self._printed = time.monotonic()

    def line(self, text: str) -> None:
        """Take one line of uv's output, and print the progress if some time has passed."""
        if announced := re.match(r"\s*Downloading (\S+) \(([\d.]+)(KiB|MiB|GiB)\)", text):
            self._megabytes[announced[1]] = float(announced[2]) * _MEGABYTES[announced[3]]
        elif downloaded := re.match(r"\s*Downloaded (\S+)", text):
            self._finished.add(downloaded[1])
        now = time.monotonic()
        if text.startswith("Prepared"):
            print(f"set-up: {self} in {now - self._started:.0f} s, now installing", flush=True)
            self._megabytes.clear()
        if self._megabytes and now - self._printed > SECONDS_PER_LINE:
            self._printed = now
            print(f"set-up: {self} in {now - self._started:.0f} s", flush=True)

    def __str__(self) -> str:
        done = sum(self._megabytes.get(name, 0.0) for name in self._finished)
        count = f"{len(self._finished)} of {len(self._megabytes)}"
        return f"{count} large packages downloaded ({done:.0f} of {sum(self._megabytes.values()):.0f} MB)"


def run_installer(
    *command: str, variables: dict[str, str] | None = None, watch: Callable[[str], None] | None = None
) -> None:
    """Run an installer; its errors are shown, except pip's traceback about a full disk.

    Args:
        command: the command.
        variables: further environment variables.
        watch: receives every line of the installer's standard error at once.

    Raises:
        UserError: it failed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in PIP_TARGETS} | {"PIP_USER": "0"}
    lines = []
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, errors="replace", env=environment | (variables or {})
    ) as process:
        for line in process.stderr or ():
            lines.append(line)
            if watch:
                watch(line)
    output = "".join(lines)
    is_full = bool(process.returncode) and any(sign in output for sign in DISK_FULL)
    if not is_full and (process.returncode or not watch):
        print(output, end="", file=sys.stderr, flush=True)
    if process.returncode:
        raise UserError(
            f"Set-up failed (status {process.returncode}): {' '.join(command)}\n{_reason(output, is_full=is_full)} "
            "Rerun the same command."
        )


def _reason(output: str, *, is_full: bool) -> str:
    if is_full:
        return (
            f"No space left on the disk of {paths.root()} or of temporary files ({tempfile.gettempdir()}). Delete some "
            "files, or set PE_VENV, PE_ROOT or TMPDIR to folders on a larger disk."
        )
    if any(sign in output for sign in INDEX_UNREACHABLE):
        return "The package index was not reachable. Check the network connection or the proxy."
    return "The lines above give the reason."


def _count(lock: Path) -> int:
    return sum("==" in line for line in lock.read_text().splitlines() if not line.startswith(("#", " ")))
