"""
Cells for the samples of registries that are not ours: a value, and whether it is there.

A sum (of a counter, a histogram, a summary) is kept as what this process has counted: what its parent had at the fork is taken
off, and when the host's own sum goes down, which is a reset, counting goes on from what there was. So these cells only grow.
A sample of any other type is what it is now, and not there when the registry does not say it any more.

Not for recording: one thread at a time publishes, and that once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING

from rfs.monitoring._capture.cells import FOREIGN, Cells, Labels, encode_entry

if TYPE_CHECKING:
    from rfs.monitoring._totals import ForeignFamily, ForeignSample

MAX_SAMPLES = 10_000  # of one process: some 7 MB of files
_MAX_ENTRY_BYTES = 4_096
_MAX_HELP_CHARACTERS = 500

_SUMMED = frozenset({"counter", "histogram", "summary"})
_MEMBER_LABELS = frozenset({"le", "quantile"})  # what tells the samples of one histogram or summary apart

SampleKey = tuple[str, Labels]
_Key = tuple[str, str, str, Labels]  # family, type, sample, labels


def is_summed(family: str, type_name: str, sample: str) -> bool:
    """Whether processes' samples of this name add up. A summary's quantiles, which are called as it is, do not."""
    return type_name in _SUMMED and sample != family


class _Sample:
    """Where a sample is kept, and what was last heard of it."""

    __slots__ = ("at", "base", "begun", "last", "region", "shown")

    def __init__(self, region: int, at: int) -> None:
        self.region = region
        self.at = at
        self.after_fork()

    def after_fork(self) -> None:
        self.begun = False
        self.shown = False
        self.base = 0.0  # to be added to what the registry says
        self.last = 0.0  # what it said

    def write(self, cells: Cells) -> None:
        # Asked for each time, because cells may move; and what was written into the old ones is written again soon.
        memory, at = cells.regions[self.region].cells, self.at
        memory[at] = self.base + self.last
        memory[at + 1] = 1.0 if self.shown else 0.0


class ForeignCells:
    """
    Names samples in *cells* and writes their values there.

    Args:
        clean: Masks a label value; asked once per sample.
    """

    def __init__(self, cells: Cells, clean: Callable[[str], str]) -> None:
        self._cells = cells
        self._clean = clean
        self._samples: dict[_Key, _Sample] = {}
        self._described: set[tuple[str, str]] = set()
        self._passing: set[_Key] = set()  # shown, and gone as soon as the registry does not say them

    def after_fork(self) -> None:
        """In a forked child, whose cells are zero: nothing has been published yet."""
        self._passing = set()
        for sample in self._samples.values():
            sample.after_fork()

    def moved(self) -> None:
        """After `Cells.move`: write everything into the new cells."""
        for sample in tuple(self._samples.values()):
            sample.write(self._cells)

    def publish(self, families: Iterable[ForeignFamily], before: Mapping[SampleKey, float]) -> int:
        """
        Write all of *families*; *before* is what sums were at the fork. Return how many samples were refused.

        Refused are numbers that cannot be summed, names and labels of more than 4 KiB, and what exceeds `MAX_SAMPLES`. A histogram
        or summary is there with all its samples or not at all.
        """
        refused = 0
        passing: set[_Key] = set()
        for family in families:
            for group in _groups(family):
                keys = [(family.name, family.type, sample.name, sample.labels) for sample in group]
                if not self._write(family, group, keys, before):
                    refused += len(group)
                elif not is_summed(*keys[0][:3]):
                    passing.update(keys)
        for key in self._passing - passing:
            sample = self._samples[key]
            sample.shown = False
            sample.write(self._cells)
        self._passing = passing
        return refused

    def _write(
        self,
        family: ForeignFamily,
        group: Sequence[ForeignSample],
        keys: Sequence[_Key],
        before: Mapping[SampleKey, float],
    ) -> bool:
        summed = is_summed(*keys[0][:3])
        if summed and not all(_can_be_summed(sample) for sample in group):
            return False
        known = [
            self._samples.get(key) or self._name(family, sample, key) for key, sample in zip(keys, group, strict=True)
        ]
        cells = [one for one in known if one is not None]
        if len(cells) < len(group):
            return False
        if summed:
            for one, sample in zip(cells, group, strict=True):
                if not one.begun:
                    one.last = before.get((sample.name, sample.labels), 0.0)
                    one.base = -one.last
            # A sum of measurements goes down with a negative one; what counts them goes down with a reset alone.
            if any(
                sample.value < one.last
                for one, sample in zip(cells, group, strict=True)
                if not sample.name.endswith("_sum")
            ):
                for one in cells:
                    one.base += one.last
        for one, sample in zip(cells, group, strict=True):
            one.last = sample.value
            one.begun = one.shown = True
        # From the largest bucket to the smallest, and read the other way round: never is a smaller one ahead of a larger.
        for one in reversed(cells):
            one.write(self._cells)
        return True

    def _name(self, family: ForeignFamily, sample: ForeignSample, key: _Key) -> _Sample | None:
        if len(self._samples) >= MAX_SAMPLES:
            return None
        flat = [
            text
            for label, value in sample.labels
            for text in (label, value if label in _MEMBER_LABELS else self._clean(value))
        ]
        described = family.name, family.type
        help_text = "" if described in self._described else family.help[:_MAX_HELP_CHARACTERS]  # once is enough
        try:
            entry = encode_entry([FOREIGN, *described, help_text, family.unit, sample.name, flat])
        except UnicodeEncodeError:  # a lone surrogate is text in Python, and nowhere else
            return None
        if len(entry) > _MAX_ENTRY_BYTES:
            return None
        block = self._cells.allocate(2, lambda _region: entry)
        if block is None:
            return None
        self._described.add(described)
        made = self._samples[key] = _Sample(block.region, block.at)
        return made


def _groups(family: ForeignFamily) -> Iterable[list[ForeignSample]]:
    """The samples that are there together or not at all: those of one histogram or summary, without its quantiles."""
    groups: dict[object, list[ForeignSample]] = {}
    for sample in family.samples:
        own: object = sample.name, sample.labels
        if is_summed(family.name, family.type, sample.name):
            own = tuple(pair for pair in sample.labels if pair[0] not in _MEMBER_LABELS)
        groups.setdefault(own, []).append(sample)
    return groups.values()


def _can_be_summed(sample: ForeignSample) -> bool:
    return -inf < sample.value < inf if sample.name.endswith("_sum") else 0 <= sample.value < inf
