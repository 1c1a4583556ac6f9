"""Every example of the documentation runs, as its reader would run it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.core.config import Settings
from app.run import RunSettings
from rfs.monitoring.metrics import collect_flux_result_metric
from rfs.monitoring.monitor import Monitor, use_monitor
from rfs.reactive.flux_result import FluxResult
from rfs.testing.fixtures import Telemetry
from rfs.web.fastapi import install
from tests.docs.snippets import ROOT, Snippet, pages, snippets

ALL = [snippet for page in pages() for snippet in snippets(page)]
GUIDES = {"docs/testing.md", "docs/testing.ko.md"}  # files of one project, which `tests.docs.test_guide` runs
PYTHON = [snippet for snippet in ALL if snippet.language in {"python", "py"} and snippet.page not in GUIDES]
LANGUAGES = {"python", "text", "sh", "sql", "json", "toml", "ini", "yaml"}


def run(snippet: Snippet) -> None:
    """
    Run a block in a module of its own; a block may await at its top level.

    The module is known to the import system while it runs, because
    dataclasses, pydantic and FastAPI resolve annotations through it.
    """
    name = f"snippet_{snippet.line}"
    module = ModuleType(name)
    code = compile(snippet.code, str(ROOT / snippet.page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    sys.modules[name] = module
    try:
        if code.co_flags & inspect.CO_COROUTINE:

            async def body() -> None:
                await eval(code, module.__dict__)

            asyncio.run(body())
        else:
            exec(code, module.__dict__)
    finally:
        del sys.modules[name]


class TestPythonBlocks:
    # What a machine is too busy to tell is no failure of the code, and the pages say so.
    @pytest.mark.filterwarnings("default::rfs.testing.performance.CannotTellWarning")
    @pytest.mark.parametrize("snippet", PYTHON, ids=str)
    def test_runs(self, snippet: Snippet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        A block runs as it stands, in an empty folder, against a monitor of its own.
        """
        monkeypatch.chdir(tmp_path)
        monitor = Monitor()

        with use_monitor(monitor):
            try:
                run(snippet)
            finally:
                monitor.stop()

    def test_pages_have_examples(self) -> None:
        """
        Both READMEs, the tutorial and each how-to show at least one program.
        """
        with_examples = {snippet.page for snippet in PYTHON}

        howtos = {str(page.relative_to(ROOT)) for page in (ROOT / "docs" / "how-to").glob("*.md")}
        assert with_examples >= {"README.md", "README.ko.md", "docs/tutorial.md", *howtos}


class TestOtherBlocks:
    @pytest.mark.parametrize("snippet", ALL, ids=str)
    def test_says_what_it_is(self, snippet: Snippet) -> None:
        """
        A block names its language, so that nothing that looks like Python escapes being run.
        """
        assert snippet.language in LANGUAGES


class WithoutTexts(ast.NodeTransformer):
    """Takes out of a program what is said to people."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        """Make every text the same."""
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.Constant:
        """Make every text the same."""
        return ast.Constant("")


class TestBothReadmes:
    def test_same_programs(self) -> None:
        """
        The Korean page shows the same programs as the English one, comments and texts aside.
        """

        def programs(page: str) -> list[str]:
            return [
                ast.dump(WithoutTexts().visit(ast.parse(snippet.code))) for snippet in PYTHON if snippet.page == page
            ]

        assert programs("README.ko.md") == programs("README.md")


class TestSettingsPage:
    def test_every_setting_is_described(self) -> None:
        """
        The reference has each key of the service and of `make run`, and no other.
        """
        page = (ROOT / "docs" / "reference" / "settings.md").read_text(encoding="utf-8")
        described = {
            name
            for row in re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE)
            for name in re.findall(r"`([A-Z_]+)`", row)
        }

        known = {
            *Settings.model_fields,
            *RunSettings.model_fields,
            "RFS_DIR",
            "RFS_HELPER",
            "RFS_LIVE_DIR",
            "RFS_SERVICE_NAME",
            "RFS_STORE",
            "RFS_STORE_KEYS",
            "RFS_DASHBOARD_TOKEN",
            "RFS_SCRAPE_TOKEN",
        }
        assert described == known


class TestMetricsPage:
    def test_every_metric_that_exists_by_itself_is_described(self, telemetry: Telemetry) -> None:
        """
        Whatever RFS measures unasked is in the reference.
        """
        page = (ROOT / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")
        app = FastAPI()
        install(app)

        with TestClient(app) as client:
            client.get("/nowhere")
        collect_flux_result_metric("batch", FluxResult.from_values([1]), 1.0)

        names = {metric.name for metric in telemetry.monitor.registry.metrics()}
        assert len(names) > 15
        assert sorted(name for name in names if f"`{name}`" not in page) == []
