"""A loop whose time is virtual."""

from tests.reactive.conftest import virtual

__all__ = ["virtual"]
