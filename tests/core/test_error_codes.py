"""The short code of an error, and whether the domain expects it (FEATURES A9, A10)."""

from __future__ import annotations

import re
from enum import Enum, IntEnum, StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.core.result import error_code, is_expected


class Code(StrEnum):
    SOLD_OUT = "SOLD_OUT"


class Number(IntEnum):
    NOT_FOUND = 404


class Lower(StrEnum):
    DECLINED = "payment.declined"


class Prose(Enum):
    UNKNOWN_TABLE = "there is no such table"


class DomainError:
    expected = True

    def __init__(self, code: object) -> None:
        self.code = code


class HostileError(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise RuntimeError(name)


class TestErrorCode:
    @pytest.mark.parametrize(
        ("error", "code"),
        [
            (Code.SOLD_OUT, "SOLD_OUT"),
            (Lower.DECLINED, "payment.declined"),
            (Number.NOT_FOUND, "NOT_FOUND"),
            (Prose.UNKNOWN_TABLE, "UNKNOWN_TABLE"),
            (DomainError(Code.SOLD_OUT), "SOLD_OUT"),
            (DomainError(Prose.UNKNOWN_TABLE), "UNKNOWN_TABLE"),
            (DomainError("payment.declined"), "payment.declined"),
            (DomainError("the card was declined"), "DomainError"),
            (DomainError(404), "DomainError"),
            (DomainError(None), "DomainError"),
            (ValueError("table 7"), "ValueError"),
            (ValueError, "ValueError"),
            ({"code": "x"}, "dict"),
            ("there is no table 7", "UNKNOWN"),
            ("NOT_FOUND", "UNKNOWN"),
            (None, "UNKNOWN"),
        ],
    )
    def test_order_is_enum_attribute_class(self, error: object, code: str) -> None:
        """
        An Enum member speaks for itself, then .code, then the class; a free text is never a code.
        """
        assert error_code(error) == code

    def test_hostile_object_is_unknown(self) -> None:
        """
        An error that raises at every touch is reported all the same.
        """
        assert error_code(HostileError()) == "UNKNOWN"

    def test_odd_class_names_are_made_to_fit(self) -> None:
        """
        A name that is no label is bounded and cleaned.
        """
        odd = type("Fehler: Tisch\n" + "x" * 100, (Exception,), {})

        assert error_code(odd()) == ("Fehler:_Tisch_" + "x" * 100)[:64]

    @given(st.text() | st.builds(DomainError, st.text() | st.integers() | st.none()) | st.builds(ValueError, st.text()))
    def test_always_a_label(self, error: object) -> None:
        """
        Whatever the error holds, the code is 1 to 64 harmless characters.
        """
        assert re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", error_code(error))

    def test_a_lying_text_is_not_asked(self) -> None:
        """
        A str of a class of its own is taken by its characters; its __str__ is never called.
        """

        class Lying(str):
            __slots__ = ()

            def __str__(self) -> str:
                raise RuntimeError("the user's __str__ was called")

        assert error_code(DomainError(Lying("PAID"))) == "PAID"
        assert type(error_code(DomainError(Lying("PAID")))) is str


class TestIsExpected:
    def test_only_true_itself_counts(self) -> None:
        """
        An error is expected if it says True; something truthy, or nothing, is not enough.
        """

        class Vague:
            expected = "yes"

        assert is_expected(DomainError("X"))
        assert not is_expected(Vague())
        assert not is_expected(ValueError("x"))
        assert not is_expected("NOT_FOUND")
        assert not is_expected(HostileError())
