"""
Cells: 8-byte sums in preallocated memory.

A counter, a gauge, a sketch bucket and the books are all cells of type float64. Adding to one is
``cells[i] = cells[i] + amount`` in code that makes no call between the read and the write: CPython
(3.10 to 3.13, with its GIL) switches threads only at calls and backward jumps, so the sum is exact
under any number of threads and there is no lock that a fork or a signal handler could find held.
The price: integers are exact up to 2**53 only.

In this version the memory is anonymous and belongs to one process.
"""

from __future__ import annotations

import mmap
from typing import NamedTuple

CELL_BYTES = 8
REGION_CELLS = 1 << 16  # 512 KiB; pages that nobody touches cost nothing
MAX_REGIONS = 128  # 64 MiB: the end of the memory that cells may ever take in one process


class Block(NamedTuple):
    """A run of cells: ``cells[at]`` to ``cells[at + n - 1]``, all zero at first."""

    cells: memoryview[float]
    at: int


class Cells:
    """
    Hands out runs of zeroed cells and never takes one back.

    Safe from any thread and from signal handlers. ``allocate`` returns None when the bound of
    memory is reached; the caller then measures into its overflow series.
    """

    __slots__ = ("_next", "_region", "_regions")

    def __init__(self) -> None:
        self._regions: list[memoryview[float]] = []
        self._region = _anonymous_region()
        self._regions.append(self._region)
        self._next = 0

    def allocate(self, count: int) -> Block | None:
        """Return *count* fresh cells (at most a region's worth), or None when all memory is spent."""
        while True:
            region = self._region
            # These three lines make no call: no other thread gets in between.
            at = self._next
            end = at + count
            if end <= REGION_CELLS and region is self._region:
                self._next = end
                return Block(region, at)
            if len(self._regions) >= MAX_REGIONS:
                return None
            fresh = _anonymous_region()
            if region is self._region:
                self._region, self._next = fresh, 0
                self._regions.append(fresh)


def _anonymous_region() -> memoryview[float]:
    # MAP_PRIVATE: after a fork the child's additions are its own.
    memory = mmap.mmap(-1, REGION_CELLS * CELL_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memoryview(memory).cast("d")
