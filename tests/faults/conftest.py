"""What several files of fault tests ask for by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.stores import Days, days_under_shim


@pytest.fixture
def days(tmp_path: Path) -> Iterator[Days]:
    with days_under_shim(tmp_path) as made:
        yield made
