"""The types that users see, as both checkers infer them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
EXAMPLES = sorted(str(path.relative_to(ROOT)) for path in HERE.glob("*_types.py"))


def check(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", [("mypy", "--strict"), ("basedpyright",)], ids=["mypy", "basedpyright"])
class TestInference:
    def test_examples_come_out_as_written(self, command: tuple[str, ...]) -> None:
        """
        Every assert_type and assert_never of the examples holds under both checkers.
        """
        checked = check(*command, *EXAMPLES)

        assert checked.returncode == 0, checked.stdout + checked.stderr

    def test_wrong_types_are_found(self, command: tuple[str, ...], tmp_path: Path) -> None:
        """
        A match without its Failure, a value of the wrong type and a step that does not fit are errors.
        """
        wrong = tmp_path / "wrong_types.py"
        wrong.write_text(
            "from typing import assert_never\n"
            "from rfs.core.result import Result, Success\n"
            "from rfs.reactive import MonoResult\n"
            "def told(result: Result[int, str]) -> int:\n"
            "    match result:\n"
            "        case Success(value):\n"
            "            return value\n"
            "        case _:\n"
            "            assert_never(result)\n"
            "def text(result: Result[int, str]) -> str:\n"
            "    return result.unwrap()\n"
            "MonoResult.from_value('x').map(abs)\n",
            encoding="utf-8",
        )

        checked = check(*command, str(wrong))

        assert checked.returncode == 1
        for line in (9, 11, 12):
            assert f"wrong_types.py:{line}:" in checked.stdout, checked.stdout
