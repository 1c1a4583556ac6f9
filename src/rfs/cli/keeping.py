"""
The commands that copy or change what is kept: ``backup``, ``archive``, ``erase`` and ``keys``. A bar on standard error shows how far they are.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from rich.table import Table
from rich.text import Text

from rfs.cli.output import Output, bytes_text, day_time, progress, visible
from rfs.cli.places import service_of
from rfs.errors import ArchiveError, RfsError
from rfs.monitoring import archives, encryption, erasure
from rfs.monitoring._store import backup as backups
from rfs.monitoring._store.sealing import STORE
from rfs.monitoring.encryption import KeyRing


@contextmanager
def _shown() -> Generator[Callable[[int, int, str], None]]:
    """What is told how far the work is, and shows it."""
    with progress() as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, what: bar.update(task, completed=done, total=total, description=what)


# Backups


def backup(directory: Path, target: Path, output: Output) -> None:
    """Make a backup."""
    with _shown() as told:
        made = backups.backup(directory, target, progress=told)
    _tell_backup(made, target, output, "made")


def verify_backup(target: Path, output: Output) -> None:
    """Read all of a backup."""
    with _shown() as told:
        found = backups.verify(target, progress=told)
    _tell_backup(found, target, output, "is as it was made")


def _tell_backup(found: backups.Backup, target: Path, output: Output, said: str) -> None:
    if output.is_json:
        output.objects(
            [
                {
                    "target": str(target),
                    "service": found.service,
                    "created": found.created,
                    "bytes": found.bytes,
                    "files": len(found.files),
                }
            ]
        )
    else:
        size = f"{bytes_text(found.bytes)} in {len(found.files)} files"
        output.show(
            f"backup {target} of {visible(found.service or 'a service without a name')} {said}: {size}, of {day_time(found.created)} UTC"
        )


# Archives


def create_archive(directory: Path, target: str, output: Output, *, before: datetime, delete: bool) -> None:
    """Put aside what is older."""
    with _shown() as told:
        made = archives.archive(
            directory / STORE, target, before=before, service=service_of(directory), delete=delete, progress=told
        )
    _tell_archives([(target, made)], output)


def verify_archive(target: str, output: Output) -> None:
    """Read all of an archive."""
    with _shown() as told:
        found = archives.verify(target, progress=told)
    _tell_archives([(target, found)], output)


def restore_archive(target: str, directory: Path, output: Output) -> None:
    """Bring an archive back."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _shown() as told:
        found = archives.restore(target, directory / STORE, progress=told)
    _tell_archives([(target, found)], output)


def list_archives(folder: str, output: Output) -> None:
    """Tell what archives there are: at that place itself, or in the folders in it."""
    found: list[tuple[str, archives.Manifest]] = []
    within = [] if "://" in folder else sorted(str(path) for path in Path(folder).iterdir() if path.is_dir())
    for target in (folder, *within):
        if target in within and not (Path(target) / archives.MANIFEST).exists():
            continue
        try:
            found.append((target, archives.read_manifest(target)))
        except ArchiveError:
            if target != folder or not within:
                raise
    _tell_archives(sorted(found, key=lambda each: each[1].before), output)


def _tell_archives(found: list[tuple[str, archives.Manifest]], output: Output) -> None:
    if output.is_json:
        output.objects(
            {
                "target": target,
                "service": manifest.service,
                "created": manifest.created,
                "before": manifest.before,
                "records": sum(file.records for file in manifest.files),
                "bytes": sum(file.bytes for file in manifest.files),
                "files": len(manifest.files),
            }
            for target, manifest in found
        )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("archive", overflow="fold")
    table.add_column("service", overflow="fold")
    table.add_column("before (UTC)", no_wrap=True)
    for heading in ("records", "size"):
        table.add_column(heading, justify="right", no_wrap=True)
    for target, manifest in found:
        table.add_row(
            visible(target),
            visible(manifest.service),
            day_time(manifest.before),
            f"{sum(file.records for file in manifest.files):,}",
            bytes_text(sum(file.bytes for file in manifest.files)),
        )
    output.show(table)


# Erasure and keys


def erase(directory: Path, subject: str, output: Output, *, fields: list[str] | None, anywhere: bool) -> int:
    """Erase a subject's records and show the receipt; return 0 if nothing of them is left, else 1."""
    with progress(sizes=False) as bar:
        task = bar.add_task("erase", total=None)
        done = erasure.erase(
            directory,
            subject,
            fields=fields or erasure.SUBJECT_FIELDS,
            anywhere=anywhere,
            keys=KeyRing.of_environment(),
            on_progress=lambda chunks, total: bar.update(task, completed=chunks, total=total),
        )
    if output.is_json:
        output.objects([done])
    else:
        output.show("\n".join(map(visible, str(done).splitlines())))
    return 1 if done.left or done.unsearched else 0


def rotate_keys(directory: Path, output: Output) -> int:
    """
    Encrypt everything with the first key and show what has been done; return 0 if that is all of it, else 1.

    Raises:
        RfsError: No keys are named.
    """
    keys = KeyRing.of_environment()
    if keys is None:
        raise RfsError(
            "no keys are named: let RFS_STORE_KEYS name the service's file of keys, the new one on its first line"
        )
    with progress(sizes=False) as bar:
        task = bar.add_task("rotate", total=None)
        done = encryption.rotate(
            directory, keys, on_progress=lambda chunks, total: bar.update(task, completed=chunks, total=total)
        )
    if output.is_json:
        output.objects([done._asdict()])
    else:
        in_use = ", ".join(f"{visible(key) or 'in clear'} {count:,}" for key, count in done.in_use.items())
        output.show(
            f"{done.records:,} records of {done.chunks} files are encrypted anew; records by key: {in_use or 'none'}"
        )
        for fault in done.failed:
            output.show(Text(visible(fault), style="red"))
    return 1 if done.failed else 0
