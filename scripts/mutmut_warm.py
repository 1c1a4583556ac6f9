"""
Runs mutmut with the tests collected once: ``python -m scripts.mutmut_warm CHILDREN SHARE MODULE …``, for scripts/mutants.py.

By itself mutmut lets pytest start and collect anew for each mutant, which takes longer than most of them live. Here its fork server
holds a session of pytest whose tests are collected, and each child of it runs, of these, the ones that call what is changed.

Of the mutants one in SHARE is run, drawn by lot, and in an order that is drawn by lot; each time the same ones.
"""

from __future__ import annotations

import ast
import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from shutil import copy
from typing import Any
from zlib import crc32

import mutmut.__main__ as mutmut
from libcst import parse_module
from mutmut.configuration import config
from mutmut.mutation import file_mutation
from mutmut.runners.harness import PytestRunner
from mutmut.state import state
from mutmut.stats import status_by_exit_code
from mutmut.workers import isolation

LIVING = ("survived", "no tests")  # as mutmut says it
SHARED_SECONDS = 5.0  # what it may take to make what a module's tests share; mutmut measures the tests alone
LONG_SECONDS = 1.5  # what takes longer is left out: a few more may survive for that, and none dies
HUNG_SECONDS = 10.0  # beside four times what a test takes otherwise
HUNG = 36  # the exit status that mutmut takes for a time limit
TYPED = 34  # and for a mutant that is passed over
SHOWN = 20  # tests that are seen to pass in a child before any mutant
KILLERS = Path("mutants/killers").resolve()  # of each function a file: the tests that its mutants died of, a line each


class WarmRunner(PytestRunner):
    """Runs tests that it has collected before, until one fails."""

    def warm_up(self) -> None:
        """Collect all tests."""
        from _pytest.config import _prepareconfig
        from _pytest.main import Session

        os.chdir("mutants")
        options = config()
        # Children share what is open here: a file that output is captured in would be of all of them.
        arguments = ["--rootdir=.", "--tb=native", "--capture=sys", "-x", "-q"]
        arguments += [*options.pytest_add_cli_args_test_selection, *options.pytest_add_cli_args]
        self._config = _prepareconfig(arguments)
        self._config._do_configure()
        self._session = Session.from_config(self._config)
        self._config.hook.pytest_sessionstart(session=self._session)
        self._config.hook.pytest_collection(session=self._session)
        self._outputs = [sys.stdout]
        KILLERS.mkdir(exist_ok=True)
        child = os.fork()
        if not child:
            sys.stdout = sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as mutmut does
            os._exit(self.run_tests(mutant_name="", tests=[item.nodeid for item in self._session.items[:SHOWN]]))
        if os.waitpid(child, 0)[1]:
            raise RuntimeError("tests fail where nothing is changed")

    def run_tests(self, *, mutant_name: str | None, tests: Iterable[str]) -> int:
        """Run *tests*; only the children of the fork server have them collected."""
        if not hasattr(self, "_session"):
            return super().run_tests(mutant_name=mutant_name, tests=tests)
        import mutants_in_place  # type: ignore[import-not-found] # the copy that the changed modules import

        # mutmut drops them and does not close them: were they not kept, the first test would fail of it.
        self._outputs += [sys.stdout, sys.stderr]
        mutants_in_place.put(mutant_name or "")
        session, items = self._session, self._session.items
        # What a fixture of a module calls is noted for the first test that uses it; the others look at it, too.
        tests = set(tests)
        shared = {each for item in items if item.nodeid in tests for each in _shared(item)}
        seconds = {
            item: state().duration_by_test.get(item.nodeid, 0.0) + (SHARED_SECONDS if _shared(item) else 0.0)
            for item in items
            if (item.nodeid in tests or not shared.isdisjoint(_shared(item)))
            and state().duration_by_test.get(item.nodeid, 0.0) < LONG_SECONDS
        }
        # What other mutants of the function died of comes first, the quick and the frequent before; then what is quick, by
        # modules, for what a module's tests share is made once.
        killers = KILLERS / (mutant_name or "").rpartition("__mutmut_")[0]
        kills = Counter(killers.read_text().splitlines() if killers.is_file() else [])
        of_module: dict[Path, float] = defaultdict(float)
        for item, its_seconds in seconds.items():
            of_module[item.path] += its_seconds
        promise = {item: kills[item.nodeid] / (its_seconds + 0.001) for item, its_seconds in seconds.items()}
        session.items = sorted(
            seconds, key=lambda item: (-promise[item], of_module[item.path], item.path, seconds[item])
        )
        self._config.pluginmanager.register(_Watch(killers))
        with suppress(session.Failed):
            self._config.hook.pytest_runtestloop(session=session)
        status = 1 if session.testsfailed else 0
        self._config.hook.pytest_sessionfinish(session=session, exitstatus=status)
        return status


class _Watch:
    """A plugin of pytest that notes which test fails, and ends a test that hangs: sooner than all tests' time limit does."""

    def __init__(self, killers: Path) -> None:
        self._killers = killers
        signal.signal(signal.SIGALRM, lambda *_: os._exit(HUNG))

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        alone = state().duration_by_test.get(nodeid, 0.0)
        signal.setitimer(signal.ITIMER_REAL, HUNG_SECONDS + SHARED_SECONDS + 4 * alone)

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            with self._killers.open("a") as file:
                file.write(f"{report.nodeid}\n")


def _shared(item: Any) -> set[tuple[Path, str]]:
    """Return the fixtures of a test that it shares with others of its module."""
    known = item._fixtureinfo.name2fixturedefs
    return {(item.path, name) for name, definitions in known.items() if definitions[-1].scope == "module"}


def for_type_checkers(path: Path) -> set[str]:
    """Return the mutants in a file that differ from the code in the type that a `cast` is given, and in nothing else."""
    made: dict[str, str] = {}
    for each in ast.walk(ast.parse(path.read_text())):
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef) and "__mutmut_" in each.name:
            for call in ast.walk(each):
                if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "cast":
                    call.args[:-1] = []
            name, each.name = each.name, ""
            made[name] = ast.dump(each)
    original = {name: made[f"{name.rpartition('_')[0]}_orig"] for name in made}
    return {name for name, code in made.items() if code == original[name] and not name.endswith("_orig")}


def lot(name: str) -> int:
    """Return a number of a mutant's own, which looks drawn by lot and is the same each time."""
    return crc32(name.encode())


def main(children: int, share: int, modules: Collection[str]) -> None:
    """Run the share of the mutants of *modules*, but those that have died before."""
    # Processes that the tests start are to find the changed modules, too.
    sources = Path("mutants", "src").resolve()
    os.environ["PYTHONPATH"] = f"{sources}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    sources.mkdir(parents=True, exist_ok=True)
    copy(Path(__file__).with_name("mutants_in_place.py"), sources)
    imports = "from mutants_in_place import MutantDict, in_place as _mutmut_mutated"
    file_mutation.trampoline_impl_cst = list(parse_module(imports).body)
    collect = mutmut.collect_source_file_mutation_data

    def collect_share(*, mutant_names: Sequence[str]) -> Any:
        mutants, by_path = collect(mutant_names=list(mutant_names))
        mine = [
            (module, name, verdict)
            for module, name, verdict in mutants
            if name.rpartition(".")[0] in modules and lot(name) % share == 0
        ]
        for module in {module.path: module for module, *_ in mine}.values():
            home = ".".join(Path(module.path).with_suffix("").parts[1:])
            for name in for_type_checkers(Path("mutants") / module.path):
                module.exit_code_by_key[f"{home}.{name}"] = TYPED
            module.save()
        mine = [(module, name, module.exit_code_by_key[name]) for module, name, _ in mine]
        # What survived may die of a test that is new; mutmut runs what has no verdict.
        return [
            (module, name, None if status_by_exit_code[verdict] in LIVING else verdict)
            for module, name, verdict in mine
        ], by_path

    vars(mutmut)["collect_source_file_mutation_data"] = collect_share
    vars(mutmut)["estimated_worst_case_time"] = (
        lot  # it sorts by that; so a run that is broken off has seen a fair sample
    )
    vars(isolation)["PytestRunner"] = WarmRunner
    isolation.ForkServerRunner.run_clean_tests = lambda *_, **__: 0  # type: ignore[method-assign] # noting the calls was one
    mutmut._run((), children)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
