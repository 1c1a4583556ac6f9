"""The tools themselves: each fault really happens. Without this, a fault test that injects nothing is green."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.faults.processes import FAR_SECONDS, environment, eventually
from tests.faults.tools import (
    NOBODY,
    SHORT,
    Call,
    Mode,
    Shim,
    build_shim,
    faulty_disk,
    limited,
    read_only,
    strace_injected,
    strace_prefix,
    tmpfs,
    tmpfs_magic,
)

pytestmark = pytest.mark.fault


def run(command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment(**variables), capture_output=True, text=True, timeout=FAR_SECONDS, check=False
    )


def python(code: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return run([sys.executable, "-c", code, *arguments], **variables)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_shim(tmp_path_factory.mktemp("shim"))


class TestFileSystems:
    def test_a_full_one_refuses_and_grows(self, tmp_path: Path) -> None:
        """
        A tmpfs of 1 MiB has no room for a second one, and has after it was made larger.
        """
        with tmpfs(tmp_path / "m", size=1 << 20) as small:
            assert tmpfs_magic(small.path)
            small.fill()

            with (small.path / "next").open("wb", buffering=0) as file:
                with pytest.raises(OSError, match="No space left"):
                    file.write(bytes(4096))
                small.resize(size=2 << 20)

                assert file.write(bytes(4096)) == 4096
        assert not tmpfs_magic(tmp_path)

    def test_a_hole_in_a_full_one_kills(self, tmp_path: Path) -> None:
        """
        Writing through a mapping into a page that a full disk cannot give is SIGBUS: what preallocation is there for.
        """
        code = "import mmap,os,sys\nf=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\nos.ftruncate(f,8192)\nmmap.mmap(f,8192)[0]=1"
        with tmpfs(tmp_path / "m", size=1 << 20) as small:
            small.fill()

            assert python(code, str(small.path / "hole")).returncode == -signal.SIGBUS

    def test_without_inodes_no_file(self, tmp_path: Path) -> None:
        """
        With 5 inodes the fifth file does not fit, though there is space.
        """
        with tmpfs(tmp_path / "m", size=1 << 20, nr_inodes=5) as small:
            for number in range(4):  # the folder itself is the first of the five
                (small.path / str(number)).touch()
            with pytest.raises(OSError, match="No space left"):
                (small.path / "4").touch()

            assert small.free()[0] > 0
            assert small.free()[1] == 0

    def test_read_only_even_for_root(self, tmp_path: Path) -> None:
        """
        A read-only bind mount refuses root, too, whom `chmod` does not stop.
        """
        folder = tmp_path / "folder"
        folder.mkdir()
        with read_only(folder, tmp_path / "m") as path:
            with pytest.raises(OSError, match="Read-only"):
                (path / "file").touch()
            (folder / "file").touch()

            assert (path / "file").exists()


class TestFaultyDisk:
    def test_passes_through(self, tmp_path: Path) -> None:
        """
        In peace it is a file system: shared writable mappings and locks included.
        """
        with faulty_disk(tmp_path) as disk:
            one = os.open(disk.path / "file", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            two = os.open(disk.path / "file", os.O_RDONLY)
            try:
                os.posix_fallocate(one, 0, 1 << 16)
                written, read = mmap.mmap(one, 1 << 16), mmap.mmap(two, 1 << 16, prot=mmap.PROT_READ)
                written[40_000:40_004] = b"here"
                fcntl.flock(one, fcntl.LOCK_EX)

                assert read[40_000:40_004] == b"here"
                with pytest.raises(BlockingIOError):
                    fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
                written.flush()
                assert (disk.folder / "file").read_bytes()[40_000:40_004] == b"here"
                written.close()
                read.close()
            finally:
                os.close(one)
                os.close(two)
            assert disk.touched == 0

    def test_hard_link_is_the_same_file(self, tmp_path: Path) -> None:
        """
        As on a disk: under each of its names, and in the listing, a file has the same number, and what one writes the other reads.
        """
        with faulty_disk(tmp_path) as disk, (disk.path / "one").open("wb", buffering=0) as written:
            written.write(b"a")
            os.link(disk.path / "one", disk.path / "two")
            with (disk.path / "two").open("rb", buffering=0) as read:
                assert read.read() == b"a"
                (disk.path / "one").unlink()
                written.write(b"b")
                assert read.read() == b"b"
                assert os.fstat(read.fileno()).st_size == 2
            number = os.fstat(written.fileno()).st_ino
            assert (disk.path / "two").stat().st_ino == number
            with os.scandir(disk.path) as entries:
                assert number in [entry.inode() for entry in entries if entry.name == "two"]

    @pytest.mark.parametrize(("mode", "error"), [(Mode.EIO, errno.EIO), (Mode.ENOSPC, errno.ENOSPC)])
    def test_fails_on_command(self, tmp_path: Path, mode: Mode, error: int) -> None:
        """
        Each failing mode refuses a write with its own error, and OK ends it.
        """
        with faulty_disk(tmp_path) as disk:
            disk.mode = mode
            with pytest.raises(OSError, match="Errno") as raised:
                (disk.path / "file").write_bytes(b"x")
            disk.mode = Mode.OK

            assert raised.value.errno == error
            assert disk.touched > 0
            assert (disk.path / "file").write_bytes(b"x") == 1

    def test_is_slow_on_command(self, tmp_path: Path) -> None:
        """
        Slow, a write takes its 50 ms.
        """
        with faulty_disk(tmp_path) as disk, (disk.path / "file").open("wb", buffering=0) as file:
            disk.mode = Mode.SLOW
            began = time.monotonic()
            file.write(b"x")

            assert time.monotonic() - began >= 0.05
            assert disk.touched > 0

    def test_hangs_on_command(self, tmp_path: Path) -> None:
        """
        Hanging, a writer waits, and goes on where it was when the hang is over.
        """
        with faulty_disk(tmp_path) as disk:
            disk.mode = Mode.HANG
            code = "import sys; open(sys.argv[1], 'w').write('x')"
            with subprocess.Popen([sys.executable, "-c", code, str(disk.path / "file")]) as writer:
                try:
                    eventually(lambda: disk.touched)
                    assert writer.poll() is None
                    disk.mode = Mode.OK

                    assert writer.wait(FAR_SECONDS) == 0
                    assert (disk.path / "file").read_text() == "x"
                finally:
                    disk.mode = Mode.OK
                    writer.kill()


class TestShim:
    def test_moves_the_wall_clock_alone(self, library: Path, tmp_path: Path) -> None:
        """
        Ten years ahead, `time.time` says so and the monotonic clock does not.
        """
        shim = Shim(library, tmp_path / "control")
        shim.move_clock(10 * 365 * 86_400)

        done = python("import time; print(time.time(), time.monotonic())", **shim.variables)

        wall, monotonic = map(float, done.stdout.split())
        assert 3.15e8 < wall - time.time() < 3.16e8
        assert abs(monotonic - time.monotonic()) < FAR_SECONDS
        assert shim.asked > 0

    @pytest.mark.parametrize(
        ("call", "code"),
        [
            (Call.FALLOCATE, "os.posix_fallocate(f, 0, 4096)"),
            (Call.MMAP, "mmap.mmap(f, 4096)"),
            (Call.OPEN, "os.open(name, os.O_RDONLY)"),
            (Call.OPEN, "os.open('chosen', os.O_RDONLY, dir_fd=os.open(folder, os.O_RDONLY))"),
            (Call.WRITE, "os.write(f, b'x')"),
            (Call.RENAME, "os.rename(name, name + '2')"),
            (Call.FTRUNCATE, "os.ftruncate(f, 1)"),
            (Call.MKDIR, "os.mkdir(name + '3')"),
            (Call.WRITE, "os.pwrite(f, b'x', 0)"),
            (Call.SYNC, "os.fsync(f)"),
            (Call.SYNC, "os.fdatasync(f)"),
        ],
    )
    def test_fails_the_chosen_call_on_the_chosen_file(
        self, library: Path, tmp_path: Path, call: Call, code: str
    ) -> None:
        """
        The named call fails once with the named error, and the next one does not; other files are spared.
        """
        shim = Shim(library, tmp_path / "control", "chosen")
        shim.fail(call, errno.EDQUOT, times=1)
        (tmp_path / "chosen").write_bytes(bytes(4096))
        program = f"""
import mmap, os, sys
folder = sys.argv[1]; name = folder + "/chosen"
f = {-1 if call is Call.OPEN else "os.open(name, os.O_RDWR)"}
try: {code}
except OSError as error: print(error.errno)
{code}
"""

        done = python(program, str(tmp_path), **shim.variables)

        assert (done.stdout, done.stderr) == (f"{errno.EDQUOT}\n", "")
        assert shim.failed(call) == 1

    def test_some_succeed_before_one_writes_half(self, library: Path, tmp_path: Path) -> None:
        """
        The third write takes half of what it is given, the others all.
        """
        shim = Shim(library, tmp_path / "control", "chosen")
        shim.fail(Call.WRITE, SHORT, times=1, after=2)
        (tmp_path / "chosen").touch()
        program = "import os, sys; f = os.open(sys.argv[1], os.O_RDWR); print([os.write(f, b'1234') for _ in range(4)])"

        done = python(program, str(tmp_path / "chosen"), **shim.variables)

        assert (done.stdout, done.stderr) == ("[4, 4, 2, 4]\n", "")
        assert shim.failed(Call.WRITE) == 1

    def test_kills_before_the_chosen_step(self, library: Path, tmp_path: Path) -> None:
        """
        Each kind of step counts once, those of SQLite, too, and elsewhere none; the process dies before the one that was chosen.
        """
        shim = Shim(library, tmp_path / "control", "chosen")
        folder = tmp_path / "chosen"
        program = """
import os, sqlite3, sys
folder = sys.argv[1]; name = folder + "/a"
os.mkdir(folder); f = os.open(name, os.O_RDWR | os.O_CREAT); os.write(f, b"x"); os.pwrite(f, b"x", 0)
os.fsync(f); os.fdatasync(f); os.ftruncate(f, 1); os.posix_fallocate(f, 0, 9); os.link(name, name + "2")
os.rename(name, name + "3"); os.unlink(name + "2"); os.open(name + "3", os.O_RDONLY)
os.close(os.open(os.path.dirname(folder) + "/other", os.O_RDWR | os.O_CREAT))
connection = sqlite3.connect(folder + "/database")
connection.execute("CREATE TABLE t (a)"); connection.commit()
"""
        shim.kill_at(1_000)
        assert python(program, str(folder), **shim.variables).returncode == 0
        assert shim.steps > 11 + 5
        shutil.rmtree(folder)

        shim.kill_at(10)
        killed = python(program, str(folder), **shim.variables)

        assert killed.returncode == -signal.SIGKILL
        assert shim.steps == 10
        assert sorted(path.name for path in folder.iterdir()) == ["a", "a2"]


class TestStrace:
    def test_injects(self, tmp_path: Path) -> None:
        """
        The second `fallocate` fails with EDQUOT, and strace's own log says that it was injected.
        """
        code = "import os,sys\nf=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT)\nfor _ in range(3):\n  try: os.posix_fallocate(f,0,99); print('ok')\n  except OSError as e: print(e.errno)"
        log = tmp_path / "log"
        prefix = strace_prefix(log, "fallocate:error=EDQUOT:when=2")

        done = run([*prefix, sys.executable, "-c", code, str(tmp_path / "file")])

        assert done.stdout.split() == ["ok", str(errno.EDQUOT), "ok"]
        assert strace_injected(log) == 1


class TestLimits:
    @pytest.fixture
    def probe(self, tmp_path: Path) -> Path:
        """A module that says what limits it runs under."""
        code = "import os,resource as r; print(r.getrlimit(r.RLIMIT_FSIZE)[0], r.getrlimit(r.RLIMIT_NOFILE)[0], os.getuid())"
        (tmp_path / "probe_limits.py").write_text(code)
        return tmp_path

    @pytest.mark.parametrize(("limit", "place", "value"), [("FSIZE=65536", 0, "65536"), ("NOFILE=20", 1, "20")])
    def test_limit_holds(self, probe: Path, limit: str, place: int, value: str) -> None:
        """
        The program runs under the limit that it was started with.
        """
        done = run([*limited(limit), "probe_limits"], PYTHONPATH=str(probe))

        assert done.stdout.split()[place] == value, done.stderr

    def test_nobody(self, tmp_path: Path) -> None:
        """
        The program runs as nobody, whom a mode of 0700 does stop. Needs root to become that.
        """
        if os.geteuid() != 0:
            pytest.skip("needs root, to become nobody")
        (tmp_path / "secret").mkdir(mode=0o700)
        with TemporaryDirectory(dir="/tmp") as open_to_all:
            Path(open_to_all).chmod(0o755)
            code = f"import os; print(os.getuid()); os.listdir({str(tmp_path / 'secret')!r})"
            (Path(open_to_all) / "probe_user.py").write_text(code)

            done = run([*limited(f"USER={NOBODY}"), "probe_user"], PYTHONPATH=open_to_all)

        assert done.stdout.split()[-1] == str(NOBODY), done.stderr
        assert "PermissionError" in done.stderr
