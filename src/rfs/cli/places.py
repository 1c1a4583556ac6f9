"""Which directory a command is about."""

from __future__ import annotations

import sys
from pathlib import Path

from rfs.errors import RfsError
from rfs.monitoring._capture.live import MEMORY, LiveDirectory, default_directory, live_path


def find_directory(directory: Path | None, service: str) -> Path:
    """
    The directory of the service that was named, by its path or its name, or of the only one that there is.

    Raises:
        RfsError: There is none, or several; the message says what to do.
    """
    if directory is not None and str(directory) == MEMORY:
        raise RfsError("RFS_DIR is :memory:, which only the process itself can read; name a directory with --directory")
    if directory is None and service:
        directory = default_directory(service)
    if directory is not None:
        if not directory.is_dir():
            raise RfsError(
                f"there is no directory {directory}; name the service's own with --directory, RFS_DIR or --service"
            )
        return directory
    home = default_directory("rfs").parent
    found = sorted(path for path in home.glob("*") if (path / "live").is_dir() or (path / "store").is_dir())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise RfsError(f"{home} has several services ({names}); name one with --service")
    raise RfsError(f"no service has recorded into {home}; name its directory with --directory or RFS_DIR")


def service_of(directory: Path) -> str:
    """The name of the service that records into *directory*, or has; by the directory's own name if none of its files tells."""
    return name_of(directory) or directory.name


def name_of(directory: Path) -> str:
    """As `service_of`; empty if none of its files tells."""
    if not live_path(directory).is_dir():
        return ""
    live = LiveDirectory(directory)
    try:
        return live.service()
    finally:
        live.close()


def import_from_here() -> None:
    """What is in this folder can be imported, as by `python -m`; the command's own script does not see to it."""
    if "" not in sys.path:
        sys.path.insert(0, "")
