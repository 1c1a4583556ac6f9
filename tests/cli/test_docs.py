"""The page about the command line, against the command itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from rfs.cli.app import app

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "cli.md").read_text(encoding="utf-8")


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Every command that can be called, by its whole name."""
    below = getattr(command, "commands", None)
    if below is None:
        yield name, command
        return
    for each in below.values():
        yield from commands(each, f"{name} {each.name}")


ALL = dict(commands(get_command(app), "rfs"))


class TestPage:
    @pytest.mark.parametrize("name", ALL)
    def test_names_every_command_and_option(self, name: str) -> None:
        """
        A command has its heading or its row, and each of its options, in every spelling, is on the page.
        """
        spelled = [option for each in ALL[name].params if each.param_type_name == "option" for option in each.opts]

        assert f"### {name}" in PAGE or f"| `{name}" in PAGE
        assert [option for option in (*spelled, "--help", "-h") if f"`{option}`" not in PAGE] == []

    @pytest.mark.parametrize("name", ALL)
    def test_every_command_and_option_says_what_it_is(self, name: str) -> None:
        """
        `--help` has a sentence for each.
        """
        assert ALL[name].help
        assert [each.name for each in ALL[name].params if not each.help] == []
