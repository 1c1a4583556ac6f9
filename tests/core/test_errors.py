"""What RFS raises on purpose."""

from __future__ import annotations

import pickle

import pytest

from rfs.core.result import error_code
from rfs.errors import (
    AlertRuleError,
    ArchiveError,
    BackupError,
    CheckFileError,
    DirectoryNotFoundError,
    MetricDefinitionError,
    MockError,
    MockTargetError,
    OperationNotFoundError,
    QueryBusyError,
    QueryError,
    QueryTimeoutError,
    ReplayError,
    RetentionError,
    RfsError,
    StaleLeaderError,
    StepTimeoutError,
    StoreError,
    StoreFileError,
    TimeRangeError,
    UnwrapError,
)

CASES = [
    (
        MetricDefinitionError("1a", "a name begins with a letter"),
        ValueError,
        "metric '1a': a name begins with a letter",
    ),
    (TimeRangeError("5x", "use 1s to 30d"), ValueError, "time range '5x': use 1s to 30d"),
    (
        AlertRuleError("slow", "threshold", "must be finite, not nan"),
        ValueError,
        "alert rule 'slow': threshold: must be finite, not nan",
    ),
    (StoreError("/d/c.db", "no space is left", "S102"), OSError, "store /d/c.db: no space is left"),
    (
        StaleLeaderError("/d/c.db", 3, 4),
        RuntimeError,
        "store /d/c.db: written to with epoch 3, but epoch 4 leads; nothing was written",
    ),
    (StepTimeoutError("charge", 2.5), TimeoutError, "step 'charge' timed out: its timeout of 2.5 s is over"),
    (QueryError("top", "must be from 1 to 1,000, not 0"), ValueError, "query: top: must be from 1 to 1,000, not 0"),
    (
        QueryTimeoutError(2.0),
        RuntimeError,
        "query: not answered within 2 s; ask for a shorter range, larger steps, or fewer records or groups",
    ),
    (
        QueryBusyError(4, 0.5),
        RuntimeError,
        "query: 4 others were being answered for 0.5 s; ask again in a moment",
    ),
    (OperationNotFoundError("orders.place"), LookupError, "no operation 'orders.place' was ever measured"),
    (UnwrapError("unwrap", "x"), ValueError, "unwrap() on Failure('x')"),
    (ArchiveError("/a", "is damaged"), ValueError, "archive /a: is damaged"),
    (BackupError("/b", "is not empty"), ValueError, "backup: /b is not empty"),
    (RetentionError("hour", -1), ValueError, "retention: hour must be 0 or more, not -1"),
    (
        DirectoryNotFoundError("/x"),
        FileNotFoundError,
        "no service has recorded into /x; name its directory (RFS_DIR)",
    ),
    (CheckFileError("c.toml", 3, "name is missing"), ValueError, "c.toml:3: name is missing"),
    (CheckFileError("c.toml", 0, "cannot be read"), ValueError, "c.toml: cannot be read"),
    (ReplayError("order-5", "nothing failed"), ValueError, "replay: order-5: nothing failed"),
    (StoreFileError("a.chunk", "is damaged"), ValueError, "store file a.chunk: is damaged"),
    (MockTargetError("orders.find", "it is no method"), LookupError, "mock of orders.find: it is no method"),
    (MockError("orders.find", "Mock sequence exhausted"), AssertionError, "Mock sequence exhausted (orders.find)"),
]


@pytest.mark.parametrize(("error", "refined", "text"), CASES)
class TestEveryError:
    def test_refines_a_standard_error(self, error: RfsError, refined: type[Exception], text: str) -> None:
        """
        It is caught as ours and as the standard error it refines.
        """
        assert isinstance(error, RfsError)
        assert isinstance(error, refined)

    def test_says_what_and_where(self, error: RfsError, refined: type[Exception], text: str) -> None:
        """
        The sentence is built from its parts.
        """
        assert str(error) == text

    def test_survives_pickling(self, error: RfsError, refined: type[Exception], text: str) -> None:
        """
        Text and parts are the same on the other side of a process border.
        """
        back = pickle.loads(pickle.dumps(error))

        assert str(back) == text
        assert vars(back) == vars(error)


class TestParts:
    def test_timeout_has_a_code(self) -> None:
        """
        A timeout counts as TIMEOUT wherever it happens.
        """
        assert error_code(StepTimeoutError("charge", 2.5)) == "TIMEOUT"

    def test_broken_repr_does_not_hide_the_call(self) -> None:
        """
        An error that cannot even be shown is named by its class.
        """

        class Broken:
            def __repr__(self) -> str:
                raise RuntimeError

        assert str(UnwrapError("unwrap", Broken())) == "unwrap() on Failure(<Broken>)"
