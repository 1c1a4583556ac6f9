"""
The command ``rfs``: what a service has recorded, read in a terminal or a pipe, whether the service runs or not.

A terminal gets tables, anything else gets JSON. Nothing here is loaded by a service, and no command has to lead or writes into the
directory it reads, but those that say so.
"""

from __future__ import annotations

import sys

_NEEDED = ("rich", "typer")


def main() -> None:
    """Do what the command line says, and exit: with 0, or with 2 and a sentence on standard error that says what to do."""
    try:
        from rfs.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in _NEEDED:
            raise
        sys.stderr.write("rfs: the command line needs optional packages: pip install 'rfs[cli]'\n")
        raise SystemExit(2) from None
    app(prog_name="rfs")
