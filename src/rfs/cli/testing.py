"""
The commands that test: ``replay`` and ``check``. They import the service's own modules, from where they are called.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from rich.table import Table
from rich.text import Text

from rfs.cli.output import Output, milliseconds, visible
from rfs.cli.places import import_from_here
from rfs.errors import CheckFileError, ReplayError
from rfs.monitoring._query import Query
from rfs.testing import checks
from rfs.testing.replay import file_name, find_failure, write_test


def replay(query: Query, output: Output, what: str, *, operation: str | None, path: Path | None) -> None:
    """
    Write a test of a failure to *path*, by default into this folder.

    Raises:
        ReplayError: There is no such failure, it cannot be replayed, or the file is there already.
    """
    import_from_here()
    failure = find_failure(query, what, operation)
    written = write_test(failure)
    path = Path(file_name(failure)) if path is None else path
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(written.source)
    except FileExistsError:
        raise ReplayError(what, f"{path} is there already; name another file with --output") from None
    if output.is_json:
        output.objects(
            [
                {
                    "file": str(path),
                    "operation": failure.operation,
                    "step": failure.step,
                    "code": failure.code,
                    "function": failure.function,
                    "todo": written.todo,
                }
            ]
        )
        return
    output.show(f"{path}: {visible(failure.operation)} fails with {visible(failure.code)}")
    for each in written.todo:
        output.show(f"  TODO {visible(each)}")


def check(
    files: Sequence[Path],
    output: Output,
    opened: Callable[[], AbstractContextManager[Query]],
    *,
    time_range: str,
    junit: Path | None,
    annotated: bool,
) -> bool:
    """
    Run the checks of *files*, show what came of them, and say whether all have passed.

    Raises:
        CheckFileError: A file cannot be used; then nothing was run.
        RfsError: The store that contracts need cannot be read.
    """
    import_from_here()
    try:
        read = [checks.read_checks(path) for path in files]
    except CheckFileError as error:
        if annotated:
            _annotate(checks.annotation_lines(error.path, [checks.Problem(error.line, error.fault)], "rfs check"))
        raise
    outcomes = list(checks.run_checks(read, opened, time_range))
    if junit is not None:
        junit.write_bytes(checks.junit(outcomes))
    if annotated:
        for each in outcomes:
            _annotate(checks.annotation_lines(each.file, each.problems, f"{each.kind} {each.name}"))
    if output.is_json:
        output.objects(
            {
                **each._asdict(),
                "passed": not each.problems,
                "problems": [problem._asdict() for problem in each.problems],
            }
            for each in outcomes
        )
    else:
        _show(outcomes, output)
    return not any(each.problems for each in outcomes)


def _show(outcomes: Sequence[checks.Outcome], output: Output) -> None:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0), expand=True)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(ratio=1, overflow="fold")
    table.add_column(justify="right", no_wrap=True, style="dim")
    for each in outcomes:
        text = Text(visible(each.name))
        for problem in each.problems:
            text.append(f"\n{visible(each.file)}:{problem.line}: ", style="dim")
            text.append(visible(problem.text), style="red")
        mark = Text("✗", style="bold red") if each.problems else Text("✓", style="green")
        table.add_row(mark, each.kind, text, milliseconds(each.seconds * 1000))
    output.show(table)
    failed = sum(bool(each.problems) for each in outcomes)
    output.show(f"{len(outcomes) - failed} passed, {failed} failed")


def _annotate(lines: Sequence[str]) -> None:
    # On standard error, which code hosts read, too: standard output holds the answer alone.
    for line in lines:
        sys.stderr.write(line + "\n")
