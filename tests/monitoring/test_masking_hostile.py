"""Whatever is handed to the masker, it answers with plain JSON, soon, and runs none of it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import decimal
import enum
import fractions
import io
import ipaddress
import json
import math
import pathlib
import sys
import threading
import uuid
import warnings
import zoneinfo
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from types import MappingProxyType
from unittest import mock

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.errors import MaskingError
from rfs.monitoring.masking import JsonValue, Masker, Pattern


class _Called(BaseException):
    """A stranger's code was run. No ``except Exception`` hides it."""


def _refuse(*args: object, **kwargs: object) -> object:
    raise _Called


_METHODS = (
    "__repr__", "__str__", "__format__", "__bytes__", "__bool__", "__len__", "__iter__", "__hash__", "__eq__", "__lt__",
    "__contains__", "__getitem__", "__int__", "__index__", "__float__", "__getattr__", "__getattribute__", "__call__",
    "__reduce__", "__dir__", "__next__", "__enter__", "__del__", "__sizeof__", "__fspath__", "__get__", "__length_hint__",
)  # fmt: skip
_TRAPS: dict[str, object] = {name: _refuse for name in _METHODS if name not in {"__del__", "__reduce__"}}
_TRAPS |= {"__class__": property(_refuse), "__dict__": property(_refuse), "secret": property(_refuse)}


def _trap(base: type = object, *, keep: tuple[str, ...] = ()) -> type:
    return type("Trap", (base,), {name: trap for name, trap in _TRAPS.items() if name not in keep})


class _Meta(type):
    __hash__ = _refuse  # type: ignore[assignment]
    __eq__ = _refuse  # type: ignore[assignment]
    __getattribute__ = _refuse
    __instancecheck__ = _refuse  # type: ignore[assignment]


class _Zone(tzinfo):
    utcoffset = tzname = dst = _refuse  # type: ignore[assignment]


class _FailingError(Exception):
    __str__ = __repr__ = _refuse  # type: ignore[assignment]


@dataclasses.dataclass
class _Lying:
    name: str = "n"
    extra: object = None

    def __getattribute__(self, name: str) -> object:
        raise _Called

    __repr__ = __str__ = __hash__ = __eq__ = _refuse  # type: ignore[assignment]


@dataclasses.dataclass
class _Chain:
    follower: object


class _Level(enum.Enum):
    LOW = "low"
    ODD = object()

    __str__ = __repr__ = __format__ = _refuse  # type: ignore[assignment]


class _Number(enum.IntEnum):
    ONE = 1


def _deep(levels: int) -> object:
    value: object = "bottom"
    for _ in range(levels):
        value = [value]
    return value


def _cycle() -> dict[str, object]:
    value: dict[str, object] = {"n": 1}
    value["self"] = value
    return value


def _strict(shown: JsonValue) -> object:
    """Return *shown* after the way through a strict encoder and parser."""
    wire = msgspec.json.encode(shown)
    return json.loads(wire, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))


ZOO: dict[str, tuple[object, object]] = {
    "object with traps": (_trap()(), "<tests.monitoring.test_masking_hostile.Trap>"),
    "text with traps": (_trap(str, keep=("__hash__",))("gimbap"), "gimbap"),
    "int with traps": (_trap(int)(7), 7),
    "float with traps": (_trap(float)(0.5), 0.5),
    "dict with traps": (_trap(dict)(), "<tests.monitoring.test_masking_hostile.Trap>"),
    "list with traps": (_trap(list)(), "<tests.monitoring.test_masking_hostile.Trap>"),
    "tuple with traps": (_trap(tuple)(), "<tests.monitoring.test_masking_hostile.Trap>"),
    "class with a lying metaclass": (_Meta("M", (), {})(), "<tests.monitoring.test_masking_hostile.M>"),
    "dataclass with traps": (_Lying(), {"name": "n", "extra": None}),
    "exception whose str raises": (_FailingError("gimbap"), "_FailingError: gimbap"),
    "enum with traps": (_Level.LOW, "low"),
    "enum of an object": (_Level.ODD, "<tests.monitoring.test_masking_hostile._Level>"),
    "int enum": (_Number.ONE, 1),
    "mock": (mock.MagicMock(), "<unittest.mock.MagicMock>"),
    "class": (_Chain, "<tests.monitoring.test_masking_hostile._Chain>"),
    "function": (_refuse, "<function>"),
    "generator": ((number for number in range(3)), "<generator>"),
    "file": (io.StringIO("x"), "<_io.StringIO>"),
    "cycle": (_cycle(), {"n": 1, "self": "<cycle>"}),
    "deep": (_deep(3000), [[[[[["<cut>"]]]]]]),
    "nan": (math.nan, "NaN"),
    "infinity": (math.inf, "Infinity"),
    "minus infinity": (-math.inf, "-Infinity"),
    "big float": (1.5e300, 1.5e300),
    "5,000 digits": (10**5000, hex(10**5000)),
    "65 bits": (2**64, str(2**64)),
    "64 bits": (2**63 - 1, 2**63 - 1),
    "card as number": (4111111111111111, "[masked:card]"),
    "card as float": (4111111111111111.0, "[masked:card]"),
    "signalling nan": (decimal.Decimal("sNaN"), "sNaN"),
    "decimal": (decimal.Decimal("12.50"), "12.50"),
    "fraction": (fractions.Fraction(1, 3), "1/3"),
    "complex": (1 + 2j, "(1+2j)"),
    "lone surrogate": ("a\ud800b", "a\\ud800b"),
    "nul": ("a\0b", "a\\x00b"),
    "bidi override": ("a\u202eb", "a\\u202eb"),
    "line ends": ("a\r\nb\u2028\x85\x1b[2J", "a\r\nb\u2028\x85\x1b[2J"),
    "bytes": (b"a\xffb", "a\\xffb"),
    "bytearray": (bytearray(b"ab"), "ab"),
    "memoryview": (memoryview(b"ab"), "<memoryview>"),
    "set": ({7}, [7]),
    "deque": (collections.deque([1, 2]), [1, 2]),
    "ordered dict": (collections.OrderedDict(a=1), {"a": 1}),
    "counter": (collections.Counter("aa"), {"a": 2}),
    "proxy": (MappingProxyType({"a": 1}), "<mappingproxy>"),
    "range": (range(3), "range(0, 3)"),
    "uuid": (uuid.UUID(int=7), "00000000-0000-0000-0000-000000000007"),
    "datetime": (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
    "seoul": (datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Asia/Seoul")), "2026-01-02T00:00:00+09:00"),
    "zone with traps": (datetime(2026, 1, 2, tzinfo=_Zone()), "2026-01-02T00:00:00<_Zone>"),
    "date": (date(2026, 1, 2), "2026-01-02"),
    "time": (time(1, 2), "01:02:00"),
    "duration": (timedelta(seconds=90), "0:01:30"),
    "path": (pathlib.PurePosixPath("/a/b"), "/a/b"),
    "address": (ipaddress.ip_address("10.0.0.1"), "10.0.0.1"),
}  # fmt: skip


class TestValues:
    @pytest.mark.parametrize("name", ZOO)
    def test_is_rendered_by_type(self, name: str) -> None:
        """
        Each awkward value has one plain rendering, and none of its code runs for it.
        """
        value, shown = ZOO[name]
        masker = Masker()

        assert _strict(masker.value(value)) == shown
        assert _strict(masker.fields({"a": value})) == {"a": shown} or name == "deep"
        assert masker.masked["error"] == 0

    def test_keys_are_rendered_too(self) -> None:
        """
        Keys that are no text become text, and two that become the same stay two.
        """
        shown = Masker().value({1: "a", "1": "b", None: "c", (1, "x"): "d", b"k": "e", _trap(keep=("__hash__",)): "f"})

        assert shown == {
            "1": "a",
            "1'": "b",
            "None": "c",
            "<cut>": "d",
            "k": "e",
            "<tests.monitoring.test_masking_hostile.Trap>": "f",
        }

    def test_what_is_consumed_by_reading_is_not_read(self) -> None:
        """
        A generator, a file and a coroutine are as they were.
        """
        numbers = (number for number in range(3))
        file = io.StringIO("abc")
        coroutine = asyncio.sleep(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")

            Masker().fields({"a": numbers, "b": file, "c": coroutine})

            coroutine.close()
        assert list(numbers) == [0, 1, 2]
        assert file.read() == "abc"

    def test_later_change_does_not_show(self) -> None:
        """
        What is returned shares nothing with what was given.
        """
        items = [1]
        fields: dict[str, object] = {"items": items, "n": 1}

        shown = Masker().fields(fields)
        items.append(2)
        fields["n"] = 2

        assert shown == {"items": [1], "n": 1}

    @given(
        st.recursive(
            st.none()
            | st.booleans()
            | st.integers()
            | st.floats()
            | st.text()
            | st.binary()
            | st.decimals()
            | st.fractions(),
            lambda inner: (
                st.lists(inner, max_size=8)
                | st.dictionaries(st.text() | st.integers(), inner, max_size=8)
                | st.tuples(st.text(), inner)
                | st.builds(_Chain, inner)
            ),
            max_leaves=40,
        )
    )
    def test_everything_becomes_strict_json(self, value: object) -> None:
        """
        Any tree of values goes through a strict encoder and parser, and no mask fails.
        """
        _strict(SHARED.value(value))
        _strict(SHARED.fields({"a": value}))

        assert SHARED.masked["error"] == 0


SHARED = Masker()


class TestBounds:
    def test_width(self) -> None:
        """
        Of a million items 64 are shown, and the number of the others.
        """
        told: list[tuple[str, str]] = []
        masker = Masker(on_count=lambda name, label: told.append((name, label)))

        items = masker.value(list(range(1_000_000)))
        pairs = masker.fields(dict.fromkeys(map(str, range(100)), 1))

        assert isinstance(items, list)
        assert len(items) == 65
        assert items[-1] == "<999936 more>"
        assert len(pairs) == 65
        assert pairs["<more>"] == 36
        assert told == [("rfs_truncated_total", "width")] * 2

    def test_nodes_and_characters(self) -> None:
        """
        A record holds 512 items and 16 Ki characters at most, and says that it was cut.
        """
        many = Masker().fields({"a": [[[1] * 60] * 60] * 60})
        long = Masker().fields({"a": "x" * 5_000_000, "b": ["y" * 5000] * 10})

        assert str(many).count("1") <= 512
        assert "<cut>" in str(many)
        assert 16_000 < len(str(long)) < 17_000
        assert str(long["a"]).endswith("x<cut>")

    def test_long_text_keeps_its_ends(self) -> None:
        """
        Of a long message the first 60 Ki and the last 4 Ki characters stay, and the number of the others.
        """
        text = Masker().text("a" * 500_000 + "b" * 500_000)

        assert text == "a" * 61440 + "<934464 characters left out>" + "b" * 4096

    @pytest.mark.parametrize("offset", range(-24, 4, 3))
    @pytest.mark.parametrize("seam", [61440, 1_000_000 - 4096])
    def test_no_secret_hides_on_a_seam(self, seam: int, offset: int) -> None:
        """
        A secret across the cut leaves no part of itself on either side.
        """
        secret = "Gimbap-1357-Ramen-2468"
        masker = Masker()
        masker.register_secret(secret)
        text = " " * (seam + offset) + secret
        text += " " * (1_000_000 - len(text))

        shown = masker.text(text)

        assert not any(part in shown for part in ("Gimbap", "1357", "Ramen", "2468", "Gim", "468"))

    def test_key_block_across_the_cut(self) -> None:
        """
        The end of a PEM block whose head was cut off is masked too.
        """
        block = "-----BEGIN KEY-----\n" + ("QUJDREVG" * 8 + "\n") * 200 + "-----END KEY-----"

        shown = Masker().text("x" * 100_000 + block)

        assert "QUJD" not in shown

    def test_dict_changed_by_another_thread(self) -> None:
        """
        A dict that grows during the walk is shown as it was at some moment.
        """
        shared: dict[str, object] = {f"k{number}": [number] for number in range(50)}
        stop = threading.Event()

        def mutate() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                shared[f"n{number % 200}"] = number
                shared.pop(f"n{(number + 100) % 200}", None)

        thread = threading.Thread(target=mutate)
        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        thread.start()
        try:
            masker = Masker()
            shown = [masker.fields({"a": shared, "b": 1}) for _ in range(300)]
        finally:
            stop.set()
            thread.join()
            sys.setswitchinterval(interval)

        assert all(item["b"] == 1 for item in shown)
        assert sum(isinstance(item["a"], dict) for item in shown) > 250

    @pytest.mark.parametrize(
        "unit",
        [
            "a", "4", "@", "4444 ", "pwd=a ", "eyJaaaaaaaaa.", "-----BEGIN A-----", "a://", '{"', "[", "password",
            "010-1234-5678 ", "\\", 'token"', "비밀번호", "token:a ", "=", "Bearer ", "A1", "password=\\\"",
        ],
    )  # fmt: skip
    def test_no_text_takes_long(self, unit: str) -> None:
        """
        A million characters made to be slow cost no more than many times what ordinary ones cost.
        """
        masker = Masker()
        clock = __import__("time").process_time

        started = clock()
        masker.text(unit * (1_000_000 // len(unit)))
        masker.fields({"a": unit * (1_000_000 // len(unit))})

        # 5 to 20 ms; a pattern that is not linear takes hours.
        assert clock() - started < 1.0


class TestFailure:
    def test_pattern_that_raises_masks_everything(self) -> None:
        """
        Where a pattern's check raises, the whole value goes, it is counted, and the other fields stay.
        """

        def accept(text: str) -> bool:
            raise RuntimeError(text)

        masker = Masker(patterns=[Pattern("broken", "bad", accept)])

        assert masker.text("a bad day") == "[masked:error]"
        assert masker.value("a bad day") == "[masked:error]"
        assert masker.fields({"a": "a bad day", "b": 1}) == {"a": "[masked:error]", "b": 1}
        assert masker.error(ValueError("bad"), stack=True).message == "[masked:error]"
        assert masker.url("/?bad%20") == "[masked:error]"
        assert masker.masked["error"] >= 5

    def test_arguments_of_a_wrong_kind(self) -> None:
        """
        What is no text, no mapping and no headers is answered all the same.
        """
        masker = Masker()

        assert masker.text(7) == "7"  # type: ignore[arg-type]
        assert masker.text(_trap(str, keep=("__hash__",))("password=x")) == "password=[masked:key]"
        assert masker.text({"password": 1}) == '{"password":"[masked:key]"}'  # type: ignore[arg-type]
        assert masker.fields(MappingProxyType({"a": 1})) == {"a": 1}
        assert masker.fields(7) == {"fields": "[masked:error]"}  # type: ignore[arg-type]
        assert masker.headers(7) == [("headers", "[masked:error]")]  # type: ignore[arg-type]
        assert masker.url(7) == "[masked:error]"  # type: ignore[arg-type]

    def test_key_of_a_wrong_kind(self) -> None:
        """
        A key that cannot be one is refused where it is declared.
        """
        with pytest.raises(MaskingError, match="key '--': must have a letter or a digit"):
            Masker().allow_key("--")

    def test_interrupt_goes_through(self) -> None:
        """
        A KeyboardInterrupt while masking is not swallowed.
        """

        def accept(text: str) -> bool:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            Masker(patterns=[Pattern("broken", "bad", accept)]).text("a bad day")

    def test_hostile_errors(self) -> None:
        """
        Errors with traps are described by their class.
        """
        masker = Masker()
        bad = OSError(2, "x")
        bad.filename = _trap()()
        bad.__notes__ = _trap()()

        assert masker.error(_FailingError(_trap()()), stack=True).message.startswith("<")
        assert masker.error(bad, stack=True).type == "FileNotFoundError"
        assert masker.masked["error"] == 0
