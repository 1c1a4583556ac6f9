"""What `make run` and `make test` do before they start: once with the network, then never again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from scripts import prepare


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone whose environment was just prepared for `run`."""
    (tmp_path / "requirements").mkdir()
    for group in prepare.GROUPS:
        (tmp_path / "requirements" / f"{group}.lock").write_text(f"{group}==1 \\\n    --hash=sha256:00\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").touch()
    (tmp_path / ".venv" / ".installed-run").write_text(prepare.stamp_of("run", tmp_path))
    return tmp_path


class TestReadiness:
    def test_prepared_once(self, clone: Path) -> None:
        """
        An unchanged clone is ready for what was installed, and for nothing more.
        """
        assert prepare.is_ready("run", clone)
        assert not prepare.is_ready("test", clone)

    @pytest.mark.parametrize("changed", ["requirements/run.lock", "pyproject.toml"])
    def test_a_changed_lock_counts(self, clone: Path, changed: str) -> None:
        """
        A changed lock, or changed package metadata, is installed anew.
        """
        with (clone / changed).open("a") as file:
            file.write("# changed\n")

        assert not prepare.is_ready("run", clone)

    def test_a_moved_clone_is_not_ready(self, clone: Path) -> None:
        """
        An environment that was moved would run the code of its old place.
        """
        moved = clone.rename(clone.with_name("moved"))

        assert not prepare.is_ready("run", moved)

    def test_a_lost_interpreter_is_noticed(self, clone: Path) -> None:
        """
        Where the system's Python was replaced, the link leads nowhere and the environment is made anew.
        """
        python = clone / ".venv" / "bin" / "python"
        python.unlink()
        python.symlink_to(clone / "gone")

        assert not prepare.is_ready("run", clone)

    def test_the_second_time_starts_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the stamp fits, no process is started, so nothing can ask the network.
        """
        monkeypatch.setattr(prepare, "is_ready", lambda group: True)
        monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: pytest.fail(f"started {args}"))
        monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: pytest.fail(f"started {args}"))

        assert prepare.main(["run"]) == 0


class TestMissingPrograms:
    def test_named_where_they_may_not_be_installed(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """
        A developer without root is told the Debian package, and the tests go on.
        """
        monkeypatch.setattr(prepare, "may_use_apt", lambda: False)
        monkeypatch.setattr(prepare, "missing_test_peers", lambda: {"chromium": "the browser tests"})

        prepare.prepare_test_peers({})

        assert "chromium" in capsys.readouterr().out

    def test_what_the_machine_lacks_is_found(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        On a bare machine each program, the C headers and the Korean font are missed by their packages' names.
        """
        monkeypatch.setattr(prepare, "C_HEADER", tmp_path / "dlfcn.h")
        monkeypatch.setenv("PATH", str(tmp_path))

        missing = set(prepare.missing_test_peers())

        assert missing == {package for _, package, _ in prepare.PEERS} | {"libc6-dev", "fonts-nanum"}

    def test_a_failure_under_ci(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        With `CI` set, nothing may be skipped for want of a program.
        """
        monkeypatch.setattr(prepare, "may_use_apt", lambda: False)
        monkeypatch.setattr(prepare, "missing_test_peers", lambda: {"chromium": "the browser tests"})

        with pytest.raises(prepare.PrepareError, match="the browser tests need the Debian package chromium"):
            prepare.prepare_test_peers({"CI": "true"})

    def test_a_failed_apt_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where apt-get fails, its last words and the package to install by hand are shown.
        """

        def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[bytes]:
            return subprocess.CompletedProcess(command, 100, b"no space left")

        monkeypatch.setattr(subprocess, "run", refuse)

        with pytest.raises(prepare.PrepareError, match=r"no space left\ninstall by hand: chromium"):
            prepare.apt_install(["chromium"])

    def test_python_without_venv(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """
        Debian splits `venv` off: without root, the message names that package.
        """

        def refuse(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
            return subprocess.CompletedProcess(command, 1, "ensurepip is not available", "")

        monkeypatch.setattr(prepare, "may_use_apt", lambda: False)
        monkeypatch.setattr(subprocess, "run", refuse)

        with pytest.raises(prepare.PrepareError, match=r"install the package python3\.\d+-venv"):
            prepare.make_environment(tmp_path / ".venv")


class TestPython:
    def test_no_python_gives_a_clear_message(self, tmp_path: Path) -> None:
        """
        On a machine without Python 3.11 the first line says what to install.
        """
        tools = {"sh": "/bin/sh", "dirname": "/usr/bin/dirname"}
        for name, target in tools.items():
            (tmp_path / name).symlink_to(target)

        done = subprocess.run(
            [str(prepare.ROOT / "scripts" / "prepare"), "run"],
            env={**os.environ, "PATH": str(tmp_path)},
            capture_output=True,
            text=True,
            check=False,
        )

        assert done.returncode == 1
        assert "no Python 3.11 found" in done.stderr
        assert "apt-get install python3 python3-venv" in done.stderr
