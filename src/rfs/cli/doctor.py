"""
``doctor``: what is wrong with a service's directory, and what to do about it. It looks, and changes nothing.
"""

from __future__ import annotations

import os
import platform
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

from rich.table import Table
from rich.text import Text

from rfs.cli.output import Output, bytes_text, day_time, progress, visible
from rfs.errors import LiveFileError, RfsError, StoreError, StoreFileError
from rfs.monitoring._capture.files import ALIVE_MAGIC, HEADER_BYTES, Header, read_header
from rfs.monitoring._capture.live import ALIVE_SUFFIX, is_locked, live_path, was_running
from rfs.monitoring._folded import COPY_IS_USED
from rfs.monitoring._live import LEADER, LEASE_SECONDS, highest_epoch, read_heartbeat
from rfs.monitoring._query import Query
from rfs.monitoring._reading import open_directory
from rfs.monitoring._store.catalogue import CatalogueReader, check_place, file_system
from rfs.monitoring._store.chunks import ChunkReader, chunk_files
from rfs.monitoring._store.listing import Listed, listed, missing
from rfs.monitoring._store.local import CATALOGUE
from rfs.monitoring._store.records import QUARANTINE
from rfs.monitoring._store.retention import CHUNKS, RESERVE
from rfs.monitoring._store.sealing import STORE

State = Literal["ok", "warning", "fault"]
_STATES: tuple[State, ...] = ("ok", "warning", "fault")
_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "fault": ("✗", "bold red")}

_LITTLE_BYTES = 64 << 20  # a leader's reserve and log, and a few processes' live files
_LITTLE_FILES = 1_000
_AHEAD_SECONDS = 60.0


class Finding(NamedTuple):
    """What one check has found: in order, or what is wrong and what to do."""

    check: str
    state: State
    says: str
    advice: str = ""


def doctor(directory: Path, output: Output) -> int:
    """Look at everything; return 0 if all is well, 1 if something is worth a look, 2 if something is broken."""
    findings: list[Finding] = []
    for check in (_permissions, _space, _versions, _processes, _catalogue, _chunks, _quarantine, _answers):
        findings += check(directory)
    worst = max((finding.state for finding in findings), key=_STATES.index)
    if output.is_json:
        checks = [finding._asdict() for finding in findings]
        output.objects([{"directory": str(directory), "state": worst, "checks": checks}])
    else:
        output.show(Text(visible(str(directory)), style="bold"))
        output.show(_table(findings))
    return _STATES.index(worst)


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1, 0, 0), pad_edge=False, expand=True)
    table.add_column(width=1)
    table.add_column(no_wrap=True)
    table.add_column(ratio=1, overflow="fold")
    for finding in findings:
        mark, style = _MARKS[finding.state]
        text = Text(visible(finding.says))
        if finding.advice:
            text.append(f"\n→ {visible(finding.advice)}", style="bold")
        table.add_row(Text(mark, style=style), Text(finding.check, style="dim"), text)
    return table


# The directory


def _permissions(directory: Path) -> Iterator[Finding]:
    wrong: list[Finding] = []
    for path, forbidden in ((directory, 0o022), (live_path(directory), 0o077), (directory / STORE, 0o077)):
        try:
            status = path.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue
        except OSError as error:
            yield Finding(
                "permissions", "fault", f"{path} cannot be looked at: {error.strerror}", "run as the service's user"
            )
            return
        mode = stat.S_IMODE(status.st_mode)
        if stat.S_ISLNK(status.st_mode):
            wrong.append(Finding("permissions", "fault", f"{path} is a symbolic link", "name the directory itself"))
        elif mode & forbidden:
            wrong.append(
                Finding(
                    "permissions", "fault", f"{path} has mode {mode:04o}, so others may use it", f"chmod 700 {path}"
                )
            )
        elif status.st_uid != os.geteuid() and os.geteuid() != 0:
            fault = f"{path} belongs to user id {status.st_uid}, not to yours, {os.geteuid()}"
            wrong.append(Finding("permissions", "fault", fault, "run as the service's user"))
    yield from wrong or [Finding("permissions", "ok", "the directory belongs to its user alone")]


def _space(directory: Path) -> Iterator[Finding]:
    for place in dict.fromkeys((directory, live_path(directory))):
        if not place.is_dir():
            continue
        status = os.statvfs(place)
        free, files = status.f_bavail * status.f_frsize, status.f_favail
        kind = file_system(place)
        says = f"{bytes_text(free)} and {files:,} files free at {place} ({kind or 'unknown file system'})"
        if status.f_flag & os.ST_RDONLY:
            yield Finding("disk", "fault", f"{place} is mounted read-only", "mount it writable")
        elif free < _LITTLE_BYTES or (status.f_files and files < _LITTLE_FILES):
            yield Finding("disk", "warning", says, "free some space; the oldest records are let go when there is none")
        else:
            yield Finding("disk", "ok", says)
    reserve = directory / STORE / RESERVE
    if (directory / STORE).is_dir() and not reserve.exists():
        yield Finding(
            "disk", "warning", "the reserve of the store is used up or not made yet", "free some space if it stays so"
        )


def _versions(directory: Path) -> Iterator[Finding]:
    try:
        own = version("rfs")
    except PackageNotFoundError:
        own = "not installed"
    says = f"rfs {own}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, {platform.system()} {platform.release()}"
    yield Finding("versions", "ok", says)
    try:
        check_place(directory / STORE / CATALOGUE)
    except StoreError as error:
        yield Finding("versions", "fault", f"the store cannot be used here (RFS-{error.code})", error.fault)


# Processes


class _Process(NamedTuple):
    header: Header
    is_alive: bool
    was_killed: bool


def _found_processes(live: Path) -> list[_Process]:
    found: list[_Process] = []
    for path in sorted(live.glob(f"[!.]*{ALIVE_SUFFIX}")):
        with suppress(FileNotFoundError, LiveFileError):
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                header = read_header(os.pread(fd, HEADER_BYTES, 0), ALIVE_MAGIC, path.name)
                alive = is_locked(fd)
                found.append(_Process(header, alive, not alive and was_running(fd)))
            finally:
                os.close(fd)
    return found


def _processes(directory: Path) -> Iterator[Finding]:
    live = live_path(directory)
    found = _found_processes(live)
    alive = [process.header for process in found if process.is_alive]
    killed = [process.header for process in found if process.was_killed]
    services = sorted({header.service for header in alive if header.service})
    if len(services) > 1:
        advice = "give each its own RFS_DIR"
        yield Finding("processes", "fault", f"several services are here: {', '.join(services)}", advice)
    if not alive:
        yield Finding("processes", "ok", "no process of the service runs")
    else:
        pids = ", ".join(str(header.pid) for header in alive)
        name = f" of {services[0]}" if len(services) == 1 else ""
        yield Finding("processes", "ok", f"{len(alive)} running{name}: pid {pids}")
    if killed:
        pids = ", ".join(str(header.pid) for header in killed)
        says = f"{len(killed)} killed, not yet folded by a leader: pid {pids}"
        yield Finding("processes", "warning", says, "start the service: whoever leads takes over what they have left")
    if alive:
        yield _leader(live)


def _leader(live: Path) -> Finding:
    epoch = highest_epoch([path.name for path in live.iterdir()], LEADER)
    try:
        leader = read_heartbeat((live / f"{LEADER}{epoch}").read_bytes())
    except (OSError, ValueError):
        leader = None
    advice = "call start_monitoring() or install(app) in the service: without a leader nothing is imported, and alert rules sleep"
    if leader is None:
        return Finding("leader", "fault", "nobody leads", advice)
    age = (time.monotonic_ns() - leader.beat_ns) / 1e9
    if not 0 <= age < 10 * LEASE_SECONDS:
        return Finding("leader", "fault", f"nobody leads; the last was pid {leader.pid}", advice)
    if age >= LEASE_SECONDS:
        return Finding(
            "leader", "warning", f"pid {leader.pid} has been silent for {age:.1f} s", "look again: another takes over"
        )
    return Finding("leader", "ok", f"pid {leader.pid} leads, epoch {epoch}")


# The store


def _catalogue(directory: Path) -> Iterator[Finding]:
    path = directory / STORE / CATALOGUE
    try:
        with closing(CatalogueReader(path)) as reader, reader.snapshot() as connection:
            if connection is None:
                yield Finding("catalogue", "ok", "there is none yet")
                return
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except StoreError as error:
        is_damaged = error.code == "S110"  # else the message says what to do
        advice = "the next leader sets it aside and begins anew" if is_damaged else ""
        yield Finding("catalogue", "fault", f"{error.fault} (RFS-{error.code})", advice)
        return
    size = sum(part.stat().st_size for part in path.parent.glob(f"{path.name}*"))
    if said != "ok":
        advice = (
            "stop the service, and restore a backup or an archive; else the next leader sets it aside and begins anew"
        )
        yield Finding("catalogue", "fault", f"is damaged: {said}", advice)
    else:
        yield Finding("catalogue", "ok", f"sound, {bytes_text(size)}")


def _chunks(directory: Path) -> Iterator[Finding]:
    path = directory / STORE / CHUNKS
    try:
        before = _chunk_names(path)
        noted = _noted(directory)
        names = _chunk_names(path)
    except FileNotFoundError:
        yield Finding("chunks", "ok", "there are none yet")
        return
    # A chunk that comes is there before it is noted, one that goes is noted no more before it goes.
    there: dict[str, Listed | None] = {name.rpartition(".")[0]: None for name in (*before, *names)}
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    records = size = 0
    faults: list[str] = []
    torn = ""
    try:
        with progress() as bar:
            task = bar.add_task("chunks", total=sum(_size(path / name) for name in names))
            for name in names:
                try:
                    with closing(ChunkReader(fd, name)) as chunk:
                        for entry in chunk.frames:
                            chunk.rows(entry)
                        records += chunk.records
                        there[chunk.name] = Listed(chunk.name, chunk.records, 0 if chunk.is_sealed else chunk.end)
                        faults += map(str, chunk.damage)
                        if chunk.torn_bytes:
                            torn = f"{name}: its last {chunk.torn_bytes:,} bytes are not whole"
                except FileNotFoundError:
                    continue  # sealed meanwhile, or let go
                except (StoreFileError, OSError) as error:
                    faults.append(str(error))
                size += _size(path / name)
                bar.advance(task, _size(path / name))
    finally:
        os.close(fd)
    faults += missing(noted, there)
    if faults:
        more = f", and {len(faults) - 3} more" if len(faults) > 3 else ""
        advice = "what is damaged is left out of every answer; restore a backup or an archive if you need it"
        yield Finding("chunks", "fault", f"damaged: {'; '.join(faults[:3])}{more}", advice)
    elif torn:
        advice = "they are being written, or were left by a kill or by damage: look again while the service runs"
        yield Finding("chunks", "warning", torn, advice)
    else:
        yield Finding("chunks", "ok", f"{len(names)} sound, {records:,} records, {bytes_text(size)}")


def _chunk_names(path: Path) -> list[str]:
    return chunk_files([found.name for found in path.iterdir()])


def _noted(directory: Path) -> dict[str, Listed]:
    """The chunks that there should be, as far as the catalogue tells; what is wrong with it is said of it."""
    with (
        suppress(StoreError),
        closing(CatalogueReader(directory / STORE / CATALOGUE)) as reader,
        reader.snapshot() as connection,
    ):
        return {} if connection is None else listed(connection)
    return {}


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _quarantine(directory: Path) -> Iterator[Finding]:
    found = [path for path in (directory / STORE / QUARANTINE).rglob("*") if path.is_file()]
    if not found:
        yield Finding("quarantine", "ok", "empty")
        return
    size = bytes_text(sum(_size(path) for path in found))
    advice = f"what was damaged is kept in {directory / STORE / QUARANTINE}; remove it when nobody needs it"
    yield Finding("quarantine", "warning", f"{len(found)} files, {size}", advice)


# What the service says of itself


def _answers(directory: Path) -> Iterator[Finding]:
    try:
        problems: list[tuple[str, str]] = []
        with open_directory(directory, on_problem=lambda code, text: problems.append((code, text))) as query:
            yield from _books(query)
            yield _clock(query)
        for code, text in dict.fromkeys(problems):
            if text.endswith(COPY_IS_USED):
                advice = "nothing is missing: the process that leads makes it anew within seconds, once a service runs"
                yield Finding("answers", "warning", f"RFS-{code}: {text}", advice)
            else:
                advice = "what cannot be read is missing in every answer"
                yield Finding("answers", "fault", f"RFS-{code}: {text}", advice)
    except (RfsError, OSError) as error:
        yield Finding("answers", "fault", f"it cannot be read: {error}", "see the other findings")


def _books(query: Query) -> Iterator[Finding]:
    for signal, books in query.books().items():
        in_flight = books["in_flight"]
        says = f"{signal}: {books['produced']:,.0f} produced = {books['delivered']:,.0f} delivered + {in_flight:,.0f} on their way"
        missing = {
            name.removeprefix("dropped_").replace("_", " "): count
            for name, count in books.items()
            if name.startswith("dropped_") or name in ("lost_on_crash", "suppressed")
        }
        says += "".join(f" + {count:,.0f} {name}" for name, count in missing.items())
        if in_flight < 0:
            yield Finding("books", "fault", f"unbalanced: {says}", "please report this: it is a fault of RFS")
        elif any(missing.values()):
            yield Finding(
                "books", "warning", says, "see the metrics rfs_dropped_total and rfs_lost_on_crash_total for when"
            )
        else:
            yield Finding("books", "ok", f"balanced: {says}")


def _clock(query: Query) -> Finding:
    newest = query.records(limit=1)
    now = datetime.now(UTC)
    says = f"now {day_time(now)} UTC; the newest record is of {day_time(newest[0].timestamp) if newest else 'never'}"
    if newest and (newest[0].timestamp - now).total_seconds() > _AHEAD_SECONDS:
        return Finding(
            "clock", "warning", f"{says}: in the future", "this machine's clock was ahead, or is behind; look at NTP"
        )
    return Finding("clock", "ok", says)
