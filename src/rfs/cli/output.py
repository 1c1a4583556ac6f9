"""
Where answers go: tables for a person at a terminal, JSON for a program.

What was recorded is somebody else's text: whatever in it would steer a terminal, or turn the order of its characters, is shown as an
escape. A Hangul syllable takes two columns, and everything here is aligned by columns.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress

UNKNOWN = "–"
WIDE = 120  # columns from which on there is place for what most readers do not need

# Controls, surrogates, and what changes the direction of text or breaks lines.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)  # fmt: skip
_UNSAFE_IN_JSON = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_encode = msgspec.json.Encoder().encode


def visible(text: str) -> str:
    """*text* on one line, with escapes for what a terminal would obey."""
    return _UNSAFE.sub(lambda found: _SHORT.get(found[0]) or _escaped(found[0]), text)


def to_json(value: object) -> str:
    """*value* on one line; NaN is null."""
    try:
        text = _encode(value).decode()
    except UnicodeEncodeError:  # half a character
        text = json.dumps(msgspec.to_builtins(value))
    return _UNSAFE_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escaped(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


class Output:
    """
    Standard output.

    Args:
        as_json: JSON even in a terminal.
    """

    def __init__(self, *, as_json: bool) -> None:
        self.is_json = as_json or not sys.stdout.isatty()
        self._console: Console | None = None
        # No character that a record has may end the command, whatever the locale is.
        for stream in (sys.stdout, sys.stderr):
            reconfigure = getattr(stream, "reconfigure", None)
            if reconfigure is not None:
                reconfigure(errors="backslashreplace")

    @property
    def console(self) -> Console:
        """The terminal."""
        if self._console is None:
            from rich.console import Console

            self._console = Console(highlight=False, markup=False, emoji=False)
        return self._console

    @property
    def width(self) -> int:
        """Columns of the terminal."""
        return self.console.width

    def show(self, what: RenderableType) -> None:
        """Show a table or a text in the terminal."""
        self.console.print(what)

    def note(self, text: str) -> None:
        """Say something beside the answer, on standard error, if somebody is there to read it."""
        if sys.stderr.isatty():
            sys.stderr.write(text + "\n")

    def objects(self, values: Iterable[object]) -> None:
        """Write JSON lines."""
        for value in values:
            sys.stdout.write(to_json(value) + "\n")
        sys.stdout.flush()


def tell(code: str, text: str) -> None:
    """Say on standard error what could not be read and is missing in the answer."""
    sys.stderr.write(f"rfs: RFS-{code} {visible(text)}\n")


def progress(*, sizes: bool = True) -> Progress:
    """A progress bar on standard error, of *sizes* in bytes, for the length of a ``with`` block; in a pipe nothing is shown."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn() if sizes else MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


def clock_time(moment: datetime) -> str:
    """The time of day in UTC, to the millisecond."""
    return moment.astimezone(UTC).strftime("%H:%M:%S.") + f"{moment.microsecond // 1000:03d}"


def day_time(moment: datetime | None) -> str:
    """Day and time in UTC, to the second."""
    return UNKNOWN if moment is None else moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S")


def milliseconds(value: float | None) -> str:
    """A duration, with as many digits as say something."""
    if value is None or value != value:
        return UNKNOWN
    if value >= 10_000:
        return f"{value / 1000:,.1f} s"
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def bytes_text(value: float) -> str:
    """A size, in the unit that fits."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def fields_text(fields: Mapping[str, Any]) -> str:
    """The fields of a record as ``key=value``."""
    return " ".join(
        f"{visible(key)}={visible(value if isinstance(value, str) else to_json(value))}"
        for key, value in fields.items()
    )
