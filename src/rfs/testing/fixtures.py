"""
The pytest plugin: fixtures for telemetry, and for Results to test with. Installed with RFS, loaded by pytest itself.

It is loaded in every test run of whoever has RFS installed, so it imports RFS inside of its fixtures alone, and does nothing
until one of them is asked for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from rfs.core.result import Failure, Result, Success
    from rfs.reactive import FluxResult, MonoResult
    from rfs.testing._snapshots import Snapshots
    from rfs.testing._telemetry import Telemetry as Telemetry  # noqa: PLC0414 - for type checkers it is a name of this module
    from rfs.testing._unhandled import Watch
    from rfs.testing.result_helpers import ResultServiceMocker
    from rfs.testing.virtual_time import VirtualTime
    from rfs.web.fastapi.errors import APIError

_UPDATE = "--rfs-update-snapshots"
_MARKS = {
    "result_test": "Results",
    "mono_test": "chains",
    "flux_test": "collections of Results",
    "performance_test": "performance, and fails beyond its max_duration_ms",
}
_watching: pytest.StashKey[Watch] = pytest.StashKey()
_snapshots: pytest.StashKey[Snapshots] = pytest.StashKey()

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Import `Telemetry`, which tests annotate with, when somebody asks for it here."""
        if name != "Telemetry":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from rfs.testing._telemetry import Telemetry

        return Telemetry


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that lets snapshots be written."""
    parser.getgroup("rfs").addoption(
        _UPDATE, action="store_true", help="write the snapshots of telemetry as they are now; refused where CI is set"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Make the marks of `rfs.testing.result_helpers` known; refuse to write where nobody would look at what was written."""
    for mark, subject in _MARKS.items():
        config.addinivalue_line("markers", f"{mark}: is about {subject}")
    if config.getoption(_UPDATE) and os.environ.get("CI"):
        raise pytest.UsageError(f"{_UPDATE} is for the developer's machine: CI is set, so no snapshot is written")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the snapshots that stand in the tests' own text."""
    snapshots = session.config.stash.get(_snapshots, None)
    if snapshots is not None:
        snapshots.write_inline()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """After a test that passed, and after its own variables are gone, ask for the Failures that nobody looked at."""
    done = yield
    watch = pyfuncitem.stash.get(_watching, None)
    said = watch.message() if watch is not None else ""
    if said:
        pytest.fail(said, pytrace=False)  # the place is in the text; it is none of this stack
    return done


@pytest.fixture
def unhandled_failures(request: pytest.FixtureRequest) -> Generator[Watch]:
    """
    Fails the test if it lets go of a Failure that nobody looked at; ``unhandled_failures.allow()`` lets it pass.

    ``usefixtures = unhandled_failures`` in pytest's settings is for all tests.
    """
    from rfs.testing._unhandled import Watch

    with Watch() as watch:
        request.node.stash[_watching] = watch
        yield watch


@pytest.fixture
def virtual_time() -> Generator[VirtualTime]:
    """One clock for the whole test, which moves by itself when nothing is left to do; see `rfs.testing.virtual_time`."""
    from rfs.testing.virtual_time import VirtualTime

    with VirtualTime() as clock:
        yield clock


@pytest.fixture
def telemetry(request: pytest.FixtureRequest, unhandled_failures: Watch) -> Generator[Telemetry]:
    """
    What the code under test records in this test, in a Monitor of its own; see `rfs.testing._telemetry.Telemetry`.

    In a test that asks for `virtual_time` too, that is its clock.
    """
    from rfs.testing._snapshots import Snapshots
    from rfs.testing._telemetry import Telemetry

    clock: VirtualTime | None = None
    if "virtual_time" in request.fixturenames:
        clock = request.getfixturevalue("virtual_time")
    stash = request.config.stash
    if _snapshots not in stash:
        is_worker = hasattr(request.config, "workerinput")  # of pytest-xdist
        stash[_snapshots] = Snapshots(update=bool(request.config.getoption(_UPDATE)), may_edit=not is_worker)
    of_test = stash[_snapshots].of(request.path, request.node.nodeid)
    with Telemetry(unhandled_failures, of_test, clock) as made:
        yield made


@pytest.fixture
def result_mocker_factory() -> Generator[Callable[..., ResultServiceMocker]]:
    """Mocks a method of a service until the test has ended; called as `rfs.testing.result_helpers.mock_result_service`."""
    from rfs.testing.result_helpers import mock_result_service

    with ExitStack() as mocks:

        def mock(service: object, method_name: str, **options: Any) -> ResultServiceMocker:
            return mocks.enter_context(mock_result_service(service, method_name, **options))

        yield mock


# Data that tests of the framework RFS descends from asked for by these names.


@pytest.fixture
def sample_user() -> dict[str, Any]:
    """A user, as plain data."""
    return _user(1)


@pytest.fixture
def sample_users() -> list[dict[str, Any]]:
    """Three users; the first is `sample_user`."""
    return [_user(number) for number in (1, 2, 3)]


def _user(number: int) -> dict[str, Any]:
    name = ("김민수", "이서연", "Ada Park")[number - 1]
    return {"user_id": f"user-{number}", "name": name, "email": f"user{number}@example.com"}


@pytest.fixture
def sample_api_error() -> APIError:
    """An `APIError`: the user was not found. Needs ``rfs[web]``."""
    from rfs.web.fastapi.errors import APIError

    return APIError.not_found("사용자", "user-1")


@pytest.fixture
def success_result(sample_user: dict[str, Any]) -> Success[dict[str, Any]]:
    """A Success of `sample_user`."""
    from rfs.core.result import Success

    return Success(sample_user)


@pytest.fixture
def failure_result(sample_api_error: APIError) -> Failure[APIError]:
    """A Failure of `sample_api_error`."""
    from rfs.core.result import Failure

    return Failure(sample_api_error)


@pytest.fixture
def mixed_results() -> list[Result[int, str]]:
    """Three Successes, 1 to 3, and two Failures, in turns."""
    from rfs.core.result import Failure, Success

    return [Success(1), Failure("error 1"), Success(2), Failure("error 2"), Success(3)]


@pytest.fixture
def success_mono_result(success_result: Success[dict[str, Any]]) -> MonoResult[dict[str, Any], Any]:
    """A chain that gives `success_result`."""
    from rfs.reactive import MonoResult

    return MonoResult.from_result(success_result)


@pytest.fixture
def failure_mono_result(failure_result: Failure[APIError]) -> MonoResult[Any, APIError]:
    """A chain that gives `failure_result`."""
    from rfs.reactive import MonoResult

    return MonoResult.from_result(failure_result)


@pytest.fixture
def slow_mono_result(success_result: Success[dict[str, Any]]) -> MonoResult[dict[str, Any], Any]:
    """A chain that takes a second, by the event loop's clock, to give `success_result`."""
    import asyncio

    from rfs.reactive import MonoResult

    async def slow() -> Success[dict[str, Any]]:
        await asyncio.sleep(1)
        return success_result

    return MonoResult.from_async_result(slow)


@pytest.fixture
def success_flux_result() -> FluxResult[int, Any]:
    """Successes of 1 to 5."""
    from rfs.reactive import FluxResult

    return FluxResult.from_values([1, 2, 3, 4, 5])


@pytest.fixture
def mixed_flux_result(mixed_results: list[Result[int, str]]) -> FluxResult[int, str]:
    """The `mixed_results`."""
    from rfs.reactive import FluxResult

    return FluxResult.from_results(mixed_results)


@pytest.fixture
def failure_flux_result() -> FluxResult[Any, str]:
    """Three Failures."""
    from rfs.core.result import Failure
    from rfs.reactive import FluxResult

    return FluxResult.from_results([Failure(f"error {number}") for number in (1, 2, 3)])


@pytest.fixture
def performance_test_data() -> dict[str, list[int]]:
    """Numbers to work on: ``small`` 10, ``medium`` 1,000 and ``large`` 100,000 of them."""
    return {name: list(range(size)) for name, size in (("small", 10), ("medium", 1_000), ("large", 100_000))}
