"""The repository keeps its own promises: targets, locks, texts, borders."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("install", "run", "test", "bench", "lint", "docs", "clean")
LOCKS = sorted([*ROOT.glob("requirements/*.lock"), *ROOT.glob("benchmarks/peers/*.lock")])


def read(name: str) -> str:
    """The text of a file of this tree."""
    return (ROOT / name).read_text(encoding="utf-8")


def tracked() -> list[Path]:
    """The files of this tree that git knows, or would take."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [path for name in listing.stdout.split("\0") if name and (path := ROOT / name).is_file()]


class TestMakefile:
    @pytest.mark.parametrize("target", TARGETS)
    def test_target_exists_and_help_names_it(self, target: str) -> None:
        """
        Each promised target is there, and `make help` says what it does.
        """
        shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)

        assert re.search(rf"^{target}:", read("Makefile"), re.MULTILINE)
        assert re.search(rf"^  make {target} +\w", shown.stdout, re.MULTILINE)

    @pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
    @pytest.mark.parametrize("target", ["run", "test"])
    def test_readme_names_the_two_first_commands(self, page: str, target: str) -> None:
        """
        A stranger finds both commands in the README's first lines.
        """
        first_screen = "\n".join(read(page).splitlines()[:60])

        assert f"make {target}" in first_screen


class TestLocks:
    @pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
    def test_every_pin_has_hashes(self, lock: Path) -> None:
        """
        Nothing is installed whose content is not known beforehand.
        """
        pins = re.split(r"\n(?=\S)", lock.read_text().strip())

        assert pins
        assert [pin for pin in pins if "--hash=sha256:" not in pin] == []

    @pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
    def test_no_host_and_no_path(self, lock: Path) -> None:
        """
        A lock says what, never from where.
        """
        assert re.findall(r"://|file:|/|@", lock.read_text()) == []

    @pytest.mark.parametrize(("smaller", "larger"), [("run", "test"), ("test", "dev")])
    def test_each_contains_the_one_before(self, smaller: str, larger: str) -> None:
        """
        `make test` after `make run` only adds: the same versions, with the same hashes.
        """

        def pins(group: str) -> set[str]:
            # A marker may widen with the group: one more package needs the same pin in one more place.
            text = re.sub(r" ; [^\\]*", " ", read(f"requirements/{group}.lock").strip())
            return set(re.split(r"\n(?=\S)", text))

        assert pins(smaller) < pins(larger)

    def test_project_names_what_the_locks_pin(self) -> None:
        """
        No requirement of `pyproject.toml` is missing in the lock of its group.
        """
        project = tomllib.loads(read("pyproject.toml"))
        named = [*project["project"]["dependencies"], *project["project"]["optional-dependencies"]["web"]]
        named += [entry for entry in project["dependency-groups"]["run"] if isinstance(entry, str)]
        locked = set(re.findall(r"^([a-z0-9-]+)==", read("requirements/run.lock"), re.MULTILINE))

        assert {re.split(r"[\[>=<]", name)[0] for name in named} <= locked


class TestTree:
    def test_no_place_of_a_machine(self) -> None:
        """
        No file names a folder that exists on one machine only.
        """
        folders = re.compile(r"(?<![A-Za-z0-9_.])/(?:work|root|farm|Users)/")

        found = [str(path.relative_to(ROOT)) for path in tracked() if folders.search(path.read_text(errors="replace"))]

        assert found == []

    def test_no_registry_is_named(self) -> None:
        """
        No file says where packages come from: that is the machine's own setting.
        """
        hosts = re.compile(r"pypi\.(?:org|python)|pythonhosted\.|registry\.npm|deb\.debian")

        found = [str(path.relative_to(ROOT)) for path in tracked() if hosts.search(path.read_text(errors="replace"))]

        assert found == []

    def test_nothing_large(self) -> None:
        """
        No file is larger than 600 kB: what can be built is not kept.
        """
        assert [str(path) for path in tracked() if path.stat().st_size > 600_000] == []


class TestTexts:
    def test_license(self) -> None:
        """
        MIT, held by the authors, as the package's metadata says too.
        """
        project = tomllib.loads(read("pyproject.toml"))["project"]

        assert read("LICENSE").startswith("MIT License\n")
        assert "The RFS authors" in read("LICENSE")
        assert project["license"] == "MIT"
        assert project["authors"] == [{"name": "The RFS authors"}]

    def test_changelog_has_the_current_version_first(self) -> None:
        """
        The changelog follows "Keep a Changelog" and opens with the version of the package.
        """
        version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
        versions = re.findall(r"^## \[(.+?)\]", read("CHANGELOG.md"), re.MULTILINE)
        sections = re.findall(r"^### (.+)$", read("CHANGELOG.md"), re.MULTILINE)

        assert versions[0] in {"Unreleased", version}
        assert sections
        assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}

    @pytest.mark.parametrize("page", ["README.md", "README.ko.md"])
    def test_every_figure_was_measured(self, page: str) -> None:
        """
        A speed or ratio in the README is one that the benchmark printed.
        """
        results = ROOT / "benchmarks" / "RESULTS.md"
        printed = results.read_text(encoding="utf-8") if results.exists() else ""
        figures = re.findall(r"\d[\d.,]*\s?(?:µs|ms|ns|×|배)(?![A-Za-z])", read(page))

        assert [figure for figure in figures if re.sub(r"[^\d.,]", "", figure) not in printed] == []

    def test_every_code_is_explained(self) -> None:
        """
        The reference has a row for each code that RFS says on standard error or in an error, and for no other.
        """
        rows = re.findall(r"^\| `RFS-([A-Z]\d{3})` \|", read("docs/reference/metrics.md"), re.MULTILINE)
        texts = [path.read_text() for path in (ROOT / "src").rglob("*.py")]
        said = {
            code for text in texts for found in re.findall(r'"([A-Z]\d{3})"|RFS-([A-Z]\d{3})', text) for code in found
        }

        assert rows == sorted(said - {""})

    def test_links_lead_somewhere(self) -> None:
        """
        Every relative link of a page points at a file that is there.
        """
        link = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
        broken = [
            f"{page.relative_to(ROOT)}: {target}"
            for page in tracked()
            if page.suffix == ".md"
            for target in link.findall(page.read_text(encoding="utf-8"))
            if not (page.parent / target).exists()
        ]

        assert broken == []


class TestBorders:
    def test_imports_point_one_way(self) -> None:
        """
        The contracts of `pyproject.toml` hold.
        """
        command = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports(no_cache=True))"
        done = subprocess.run([sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stdout + done.stderr

    def test_core_and_reactive_need_the_standard_library_alone(self) -> None:
        """
        With every other package hidden, the core still imports and works.
        """
        program = """
import sys
class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] not in sys.stdlib_module_names | {"rfs"}:
            raise ModuleNotFoundError(f"hidden: {name}")
sys.meta_path.insert(0, Hide())
import asyncio
from rfs.core.result import Success
from rfs.reactive.mono_result import MonoResult
from rfs.reactive.flux_result import FluxResult
mono = MonoResult.from_result(Success(20)).map(lambda value: value + 1)
assert asyncio.run(mono.to_result()) == Success(21)
assert FluxResult.from_values([1]).count_success() == 1
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr

    def test_recording_loads_no_web_framework(self) -> None:
        """
        A batch job that imports `rfs.monitoring` does not pay for FastAPI, and starts nothing.
        """
        program = """
import sys, threading
import rfs.monitoring, rfs.monitoring.metrics, rfs.monitoring.result_logging, rfs.monitoring.alerts
loaded = {name.partition(".")[0] for name in sys.modules}
assert not loaded & {"fastapi", "pydantic", "starlette", "uvicorn", "psutil"}, loaded
assert threading.active_count() == 1
"""
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

        assert done.returncode == 0, done.stderr
