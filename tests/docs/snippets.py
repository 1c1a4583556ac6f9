"""
Reads the code blocks of the project's pages, so that each of them can be run, and says with which variables.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.faults.processes import environment

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "README.ko.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")
_FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w-]*)[^\n]*\n(?P<code>.*?)^(?P=indent)```\s*?$", re.MULTILINE | re.DOTALL
)


class Snippet(NamedTuple):
    """One fenced block of a page."""

    page: str  # relative to the repository's root
    line: int  # of its first line of code
    language: str
    code: str

    def __str__(self) -> str:
        """Name the block as an editor can find it."""
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """The name of the file that it is, as its first line says, or nothing."""
        found = re.match(r"# (\S+\.\w+)\n", self.code)
        return found[1] if found else ""


def pages() -> list[Path]:
    """Return every page that a user reads."""
    return [ROOT / name for name in PAGES] + sorted((ROOT / "docs").rglob("*.md"))


def snippets(page: Path) -> Iterator[Snippet]:
    """Yield the fenced blocks of *page* in their order."""
    text = page.read_text(encoding="utf-8")
    for match in _FENCE.finditer(text):
        indent = match["indent"]
        code = "".join(line.removeprefix(indent) for line in match["code"].splitlines(keepends=True))
        line = text.count("\n", 0, match.start("code")) + 1
        yield Snippet(str(page.relative_to(ROOT)), line, match["language"], code)


def readers_environment() -> dict[str, str]:
    """The variables under which a reader's commands work here, with the plugins of pytest that the reader has and no others."""
    return environment(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=str(ROOT / "src"),
        PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
        PYTEST_ADDOPTS="-p no:cacheprovider -p pytest_asyncio.plugin -p rfs.testing.fixtures",
        CI="true",  # hypothesis has no deadline then
        HYPOTHESIS_STORAGE_DIRECTORY=str(ROOT / ".hypothesis"),  # where it has its tables of characters already
    )
