"""
Reads the code blocks of the project's pages, so that each of them can be run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

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
