"""
What pytest does for scripts/mutants.py, as mutmut asks by the environment: fail, or note which functions a test calls.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import mutants_in_place  # type: ignore[import-not-found] # a copy in the path, where its modules are changed
import pytest
from hypothesis import Phase, settings
from mutmut.stats import record_trampoline_hit

CALLS = Path("calls").resolve()


def pytest_configure(config: pytest.Config) -> None:
    """Import all of the package, and do what mutmut asks for."""
    for folder in config.getini("testpaths"):  # tests/core is for rfs.core
        package = f"rfs.{Path(folder).name}"
        for module in iter_modules(import_module(package).__path__, f"{package}."):
            import_module(module.name)
    # A test that fails has killed its mutant; what its smallest example is, nobody asks.
    settings.register_profile("mutants", settings(database=None, phases=[Phase.explicit, Phase.generate]))
    settings.load_profile("mutants")
    wanted = os.environ.get("MUTANT_UNDER_TEST", "")
    if wanted == "fail":
        pytest.exit("mutmut wants to see that", returncode=1)
    if wanted == "stats":
        CALLS.write_text("")
        mutants_in_place.note_calls(str(CALLS))


@pytest.hookimpl(tryfirst=True)  # before mutmut notes which test it was
def pytest_runtest_teardown() -> None:
    """Tell mutmut which functions the test has called, and the processes that it has started."""
    if "MUTANT_CALLS" in os.environ:
        for name in set(CALLS.read_text(encoding="utf-8").split()):
            record_trampoline_hit(name)
        CALLS.write_text("")
        mutants_in_place.called.clear()
