"""The command in a real terminal: what a person sees there, in 80 and in 140 columns, and how it ends."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from rich.cells import cell_len

from tests.cli.running import Terminal, command, rfs
from tests.faults.processes import ROOT, Process, environment, eventually

WIDTHS = (80, 140)


def column_of(line: str, text: str) -> int:
    """In which column of the screen *text* begins."""
    return cell_len(line[: line.index(text)])


def shown(*arguments: object, columns: int) -> list[str]:
    """What the command shows in a terminal of so many columns."""
    with Terminal(*arguments, columns=columns) as terminal:
        assert terminal.wait() == 0, terminal.raw
        return terminal.lines


class TestWidth:
    @pytest.mark.parametrize("columns", WIDTHS)
    @pytest.mark.parametrize(
        "arguments", [("logs", "-n", 40), ("trace", "order-0002"), ("errors",), ("ops",), ("doctor",)]
    )
    def test_no_line_is_wider_than_the_screen(
        self, directory: Path, columns: int, arguments: tuple[object, ...]
    ) -> None:
        """
        Every command fits, Korean text included, whose letters take two columns each.
        """
        lines = shown(*arguments, "-d", directory, columns=columns)

        assert any(re.search("[가-힣]", line) for line in lines) or arguments == ("doctor",)
        assert max(cell_len(line) for line in lines) <= columns


class TestLogs:
    @pytest.mark.parametrize("columns", WIDTHS)
    def test_columns_line_up(self, directory: Path, columns: int) -> None:
        """
        The message begins in one column, whatever the operation's name is written in.
        """
        lines = shown("logs", "-d", directory, "-n", 40, columns=columns)

        korean = {column_of(line, "재고 확인") for line in lines if "재고 확인" in line}
        latin = {column_of(line, "the kitchen") for line in lines if "the kitchen" in line}
        assert len(korean) == 1
        assert korean == latin

    def test_a_wide_screen_has_the_id_in_a_column(self, directory: Path) -> None:
        """
        Where there is room each line has its correlation id; where not, those from WARNING on have it.
        """
        wide = [line for line in shown("logs", "-d", directory, "-n", 8, columns=140) if "order-0029" in line]
        narrow = [line for line in shown("logs", "-d", directory, "-n", 8, columns=80) if "id=order-0029" in line]

        assert len(wide) == 8
        assert len(narrow) == 3  # the kitchen is busy, and both operations failed

    def test_says_how_to_go_on(self, directory: Path) -> None:
        """
        A page that has an older one behind it ends with the option that shows it.
        """
        last = [line for line in shown("logs", "-d", directory, "-n", 5, columns=140) if line][-1]

        cursor = last.removeprefix("older ones: --before ")
        assert cursor != last
        assert len(rfs("logs", "-d", directory, "-n", 5, "--before", cursor).objects) == 5


class TestHostileText:
    def test_steers_no_terminal(self, tmp_path: Path) -> None:
        """
        A record's text is shown, and not obeyed: no escape sequence, no second line, no turned direction comes out of it.
        """
        message = "\x1b[2J\x1b]0;title\x07 gone\r\nERROR forged \u202etxet\u2066 \x9b31m"
        with Process("orders", env=environment(RFS_DIR=str(tmp_path / "d"), RFS_SERVICE_NAME="orders")) as process:
            process.answer()
            process.ask(do="say", message=message, fields={"note\x1b[1m": "\x1b[31m"})

            with Terminal("logs", "-d", tmp_path / "d", columns=140, NO_COLOR="1") as terminal:
                assert terminal.wait() == 0
                raw = terminal.raw
            with Terminal("logs", "-d", tmp_path / "d", "--json", columns=140) as terminal:
                terminal.wait()
                as_json = terminal.raw

        assert "gone" in raw
        assert "forged" in raw
        for text in (raw, as_json):
            assert not set(text) & {"\x07", "\x9b", "\u202e", "\u2066"}
            assert "\x1b[2J" not in text
            assert "\x1b]" not in text
            assert "\x1b[31m" not in text
        assert not any(line.lstrip().startswith("ERROR") for line in raw.splitlines())
        assert json.loads(as_json.splitlines()[-1])["message"].startswith(message[:20])


class TestTrace:
    def test_is_a_tree_with_what_failed_marked(self, directory: Path) -> None:
        """
        A span stands to the right of the one that opened it, a log line to the right of its own.
        """
        lines = shown("trace", "order-0002", "-d", directory, columns=80)

        place, check, logged, charge = (
            next(line for line in lines if text in line)
            for text in ("orders.place", "재고.확인", "재고 확인", "payment.charge")
        )
        assert "2 failed" in lines[0]
        assert "✗" in place
        assert "✓" in check
        assert "CARD_DECLINED" in charge
        assert column_of(place, "✗") < column_of(check, "✓") == column_of(charge, "✗") < column_of(logged, "INFO")
        assert lines.index(place) < lines.index(check) < lines.index(logged) < lines.index(charge)
        assert re.search(r"\d ms +✗ payment", charge)


class TestOps:
    def test_figures_line_up(self, directory: Path) -> None:
        """
        Numbers end in one column each, beside names of any script.
        """
        head, *rows = [line for line in shown("ops", "-d", directory, columns=140) if line]

        ends = {cell_len(row[: re.search(r"\b30\b", row).end()]) for row in rows}  # type: ignore[union-attr]
        assert len(rows) == 3
        assert ends == {cell_len(head[: head.index("requests") + len("requests")])}

    def test_a_share_of_failures_is_never_rounded_away(self, directory: Path) -> None:
        """
        100 % means that nothing has failed.
        """
        rows = shown("ops", "-d", directory, columns=140)

        assert any("재고.확인" in row and "100 %" in row for row in rows)
        assert any("payment.charge" in row and "53.33 %" in row for row in rows)


class TestFollow:
    def test_shows_what_is_recorded_until_it_is_interrupted(self, tmp_path: Path) -> None:
        """
        New records appear, each once, and Ctrl-C ends it as it ends any command that waits: with status 0.
        """
        with Process("orders", env=environment(RFS_DIR=str(tmp_path / "d"), RFS_SERVICE_NAME="orders")) as process:
            process.answer()
            process.ask(do="say", message="before")
            with Terminal("logs", "-f", "-d", tmp_path / "d", columns=80) as terminal:
                eventually(lambda: any("before" in line for line in terminal.lines), says=lambda: terminal.raw)
                for number in range(20):
                    process.ask(do="say", message=f"record {number:02d}")
                eventually(lambda: "record 19" in terminal.raw, says=lambda: terminal.raw)
                process.ask(do="say", message="물이 끓습니다", level="debug")
                process.ask(do="say", message="주문이 들어왔습니다")
                eventually(lambda: "주문이 들어왔습니다" in terminal.raw, says=lambda: terminal.raw)
                terminal.interrupt()

                assert terminal.wait() == 0
                raw = terminal.raw

        assert re.findall(r"before|record \d\d|주문이", raw) == [
            "before",
            *(f"record {number:02d}" for number in range(20)),
            "주문이",
        ]
        assert "Traceback" not in raw


class TestPipe:
    def test_gets_json(self, directory: Path) -> None:
        """
        The same command in a pipe writes JSON lines, without any colour.
        """
        done = subprocess.run(
            command("logs", "-d", directory), capture_output=True, text=True, check=True, cwd=ROOT, env=_environment()
        )

        assert [json.loads(line)["correlation_id"] for line in done.stdout.splitlines()][-1] == "order-0029"
        assert done.stderr == ""

    def test_that_is_closed_early_is_no_error_to_talk_about(self, directory: Path) -> None:
        """
        `rfs logs | head -1` shows one line and no traceback.
        """
        line = " ".join([*command("logs", "-n", 10_000, "-d", directory), "| head -1"])

        done = subprocess.run(
            line, shell=True, capture_output=True, text=True, check=True, cwd=ROOT, env=_environment()
        )

        assert len(done.stdout.splitlines()) == 1
        assert done.stderr == ""


class TestHelp:
    def test_is_there_at_once(self) -> None:
        """
        Asking for help loads neither the tables' package nor anything of a service.
        """
        program = "import sys; from typer.testing import CliRunner; from rfs.cli.app import app\n"
        program += "done = CliRunner().invoke(app, ['--help']); assert done.exit_code == 0, done.output\n"
        program += "slow = {'rich', 'msgspec', 'rfs.monitoring', 'sqlite3', 'rfs.cli.reading'} & set(sys.modules); assert not slow, slow"

        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=_environment()
        )

        assert done.returncode == 0, done.stderr

    def test_without_the_packages_says_what_to_install(self) -> None:
        """
        The command is there without the extra, and names it.
        """
        program = "import sys; sys.modules['typer'] = None\nfrom rfs.cli import main\nmain()"

        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False, env=_environment()
        )

        assert done.returncode == 2
        assert done.stderr == "rfs: the command line needs optional packages: pip install 'rfs[cli]'\n"


def _environment() -> dict[str, str]:
    return environment(PYTHONPATH=os.pathsep.join(sys.path))
