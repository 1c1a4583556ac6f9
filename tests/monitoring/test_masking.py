"""Masking finds secrets where they hide, and leaves ordinary lines alone."""

from __future__ import annotations

import base64
import dataclasses
import json
import pickle
import urllib.parse
import uuid
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, NamedTuple

import msgspec
import pydantic
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rfs.errors import MaskingError
from rfs.monitoring import masking
from rfs.monitoring.masking import DEFAULT_PATTERNS, PATTERNS, ErrorInfo, Masker, Pattern, Sensitive

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJjYW5hcnkifQ.c2lnbmF0dXJlLW9mLWNhbmFyeQ"
PEM = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANcanary\nQUJD\n-----END PRIVATE KEY-----"
CARD = "4111 1111 1111 1111"
RESIDENT = "900101-1234567"
FOREIGNER = "850712-5123456"
PHONE = "010-1234-5678"
DSN_PASSWORD = "hunter-canary"

# What a secret looks like, and the part that must be gone.
CANARIES: dict[str, tuple[str, str]] = {
    "jwt": (JWT, JWT.split(".")[1]),
    "pem": (PEM, "MIIEvQIBADANcanary"),
    "card": (CARD, CARD),
    "card bare": ("5500005555555559", "5500005555555559"),
    "card amex": ("3782-822463-10005", "822463"),
    "resident number": (RESIDENT, "1234567"),
    "foreigner number": (FOREIGNER, "5123456"),
    "phone": (PHONE, "1234-5678"),
    "phone bare": ("01012345678", "12345678"),
    "phone abroad": ("+82 10-1234-5678", "1234-5678"),
    "phone at home": ("02-312-4567", "312-4567"),
    "business number": ("220-81-62517", "62517"),
    "iban": ("DE89 3704 0044 0532 0130 00", "0532"),
    "iban bare": ("GB82WEST12345698765432", "12345698"),
    "bearer": ("Bearer canary-token-77", "canary-token-77"),
    "basic": ("Basic " + base64.b64encode(b"ann:canary").decode(), base64.b64encode(b"ann:canary").decode()),
    "url user info": (f"postgresql+asyncpg://app:{DSN_PASSWORD}@db:5432/shop", DSN_PASSWORD),
    "url password with slash": ("redis://:ca/na#ry@cache:6379/0", "ca/na#ry"),
    "url token": ("https://ghs_0123456789abcdef@github.com/a/b", "0123456789abcdef"),
    "query parameter": ("https://x.example/cb?state=1&access_token=canary77&n=2", "canary77"),
    "signed url": ("https://s3.example/o?X-Amz-Signature=canary77&X-Amz-Date=1", "canary77"),
    "assignment": ("connect with db_passwd=canary77 now", "canary77"),
    "assignment in quotes": ("userPassword: 'canary 77'", "canary 77"),
    "form": ("user=ann&password=canary77&next=/", "canary77"),
    "json in text": ('got {"apiKey": "canary77", "n": 1} from it', "canary77"),
    "json in json": (r'{"body": "{\"client_secret\": \"canary77\"}"}', "canary77"),
    "korean": ("비밀번호: canary77", "canary77"),
    "korean glued": (f"번호는{PHONE}입니다", "1234-5678"),
    "header line": ("X-Api-Key: canary77", "canary77"),
    "command line": ("app --db-password canary77 -v", "canary77"),
    "source line": ("def connect(password: str = 'canary77') -> None:", "canary77"),
    "behind a forged marker": ("password=[masked:key]canary77", "canary77"),
    "cookie line": ("Cookie: a=canary77; b=canary78", "canary78"),
    "github": ("ghp_0123456789abcdefABCDEF0123456789abcd", "0123456789abcdef"),
    "aws": ("AKIAIOSFODNN7EXAMPLE", "IOSFODNN7"),
    "stripe": ("sk_live_0123456789abcdef", "0123456789abcdef"),
    "toss": ("live_gsk_0123456789abcdef", "0123456789abcdef"),
    "slack": ("xoxb-123456789012-abcdefghij", "123456789012"),
    "slack hook": ("https://hooks.slack.com/services/T00000000/B00000000/canary77canary77", "canary77"),
    "telegram": ("123456789:AAFcanary77canary77canary77canary77", "canary77"),
    "google": ("AIzaSyA0123456789abcdefghijklmnopqrstuv", "0123456789"),
    "anthropic": ("sk-ant-api03-canary77canary77canary77", "canary77"),
}


def _raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as raised:  # noqa: BLE001 - whatever it is, it now has a traceback
        return raised


def _chained(text: str) -> BaseException:
    try:
        raise KeyError(text)
    except KeyError as cause:
        try:
            raise RuntimeError("outer") from cause
        except RuntimeError as error:
            return error


def _noted(text: str) -> BaseException:
    error = ValueError("noted")
    error.add_note(f"while handling {text}")
    return _raised(error)


@dataclasses.dataclass
class Order:
    memo: str


class Line(msgspec.Struct):
    memo: str


class Model(pydantic.BaseModel):
    memo: str


class Named(NamedTuple):
    memo: str


def _stack(masker: Masker, error: BaseException) -> object:
    return msgspec.to_builtins(masker.error(error, stack=True))


PLACES: dict[str, Callable[[Masker, str], object]] = {
    "message": lambda masker, text: masker.text(f"order failed: {text} (retrying)"),
    "message alone": lambda masker, text: masker.text(text),
    "long message": lambda masker, text: masker.text("상태 " * 3000 + text + " 입니다" * 3000),
    "field": lambda masker, text: masker.fields({"memo": text}),
    "field beside others": lambda masker, text: masker.fields({"a": "x" * 40, "memo": text, "b": "y" * 40}),
    "dict": lambda masker, text: masker.fields({"a": {"b": {"c": text}}}),
    "list": lambda masker, text: masker.value([1, [text]]),
    "tuple and set": lambda masker, text: masker.value((frozenset({text}),)),
    "bytes": lambda masker, text: masker.value(text.encode()),
    "key": lambda masker, text: masker.fields({text: 1}),
    "key inside": lambda masker, text: masker.fields({"a": {text: 1}}),
    "dataclass": lambda masker, text: masker.value(Order(text)),
    "struct": lambda masker, text: masker.value(Line(text)),
    "model": lambda masker, text: masker.value(Model(memo=text)),
    "named tuple": lambda masker, text: masker.value(Named(text)),
    "exception": lambda masker, text: _stack(masker, _raised(ValueError(text))),
    "exception as value": lambda masker, text: masker.value(ValueError(text)),
    "cause": lambda masker, text: _stack(masker, _chained(text)),
    "note": lambda masker, text: _stack(masker, _noted(text)),
    "group": lambda masker, text: _stack(masker, _raised(ExceptionGroup("many", [ValueError(text)]))),
    "error that is text": lambda masker, text: _stack(masker, text),  # type: ignore[arg-type]
    "json text": lambda masker, text: masker.fields({"body": json.dumps({"memo": [text]})}),
    "header value": lambda masker, text: masker.headers([(b"x-note", text.encode())]),
}


def _wire(shown: object) -> str:
    """Return what would be sent, with JSON's escapes undone so that nothing hides behind them."""
    wire = msgspec.json.encode(shown).decode()
    return wire + wire.replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")


SHARED = Masker()  # for what has no state to test: making one takes 5 ms

SECRET = 'Kim?i/"치&o\\ bap~>'
KNOWING = Masker()
KNOWING.register_secret(SECRET)


class TestCanaries:
    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize("kind", CANARIES)
    def test_no_secret_leaves(self, kind: str, place: str) -> None:
        """
        A secret that can be told by its looks is gone wherever it is put, and a marker stands there.
        """
        text, secret = CANARIES[kind]

        wire = _wire(PLACES[place](SHARED, text))

        assert secret not in wire
        assert "[masked:" in wire

    @pytest.mark.parametrize("place", PLACES)
    @pytest.mark.parametrize(
        "encode",
        [
            pytest.param(lambda text: text, id="plain"),
            pytest.param(lambda text: base64.b64encode(text.encode()).decode(), id="base64"),
            pytest.param(lambda text: base64.b64encode(b"ab" + text.encode() + b"c").decode(), id="inside base64"),
            pytest.param(lambda text: base64.b64encode(b"a" + text.encode() + b"bc").decode(), id="inside base64 (2)"),
            pytest.param(lambda text: base64.urlsafe_b64encode(text.encode()).decode().rstrip("="), id="base64url"),
            pytest.param(lambda text: text.encode().hex(), id="hex"),
            pytest.param(lambda text: text.encode().hex().upper(), id="HEX"),
            pytest.param(urllib.parse.quote, id="url"),
            pytest.param(urllib.parse.quote_plus, id="form"),
            pytest.param(lambda text: json.dumps(text)[1:-1], id="json"),
            pytest.param(repr, id="repr"),
        ],
    )
    def test_registered_secret_leaves_in_no_encoding(self, encode: Callable[[str], str], place: str) -> None:
        """
        A registered secret is gone in each encoding that texts are usually sent in.
        """
        text = encode(SECRET)

        wire = _wire(PLACES[place](KNOWING, text))

        # Base64 of a secret inside other bytes leaves the letters it shares with its neighbours.
        assert text[4:-4] not in wire
        assert "[masked:secret]" in wire

    def test_marker_tells_only_the_rule(self) -> None:
        """
        Each default pattern writes its name and no part of what it found.
        """
        masker = Masker()

        shown = masker.fields({f"field {number}": text for number, (text, _) in enumerate(CANARIES.values())})

        markers = {f"[masked:{pattern.name}]" for pattern in DEFAULT_PATTERNS}
        assert masker.text(CARD) == "[masked:card]"
        assert masker.text(JWT) == "[masked:jwt]"
        assert markers <= {part for text in shown.values() for part in markers if part in str(text)}


ORDINARY = [
    "order 42 created for table 7 by store seoul-1, total 18500 won",
    "주문 접수: 김밥 2줄, 라면 1개, 합계 13,500원",
    "GET /api/v1/orders/8f14e45f-ceea-467f-a0d6-0c3b5a0f9d11 200 in 12.7 ms",
    "trace 4bf92f3577b34da6a3ce929d0e0e4736 span 00f067aa0ba902b7",
    "2026-11-21T09:44:40.123456+00:00 INFO started worker 3 of 8",
    "timestamps 1732181080 1732181080123 1712251234567 1732181080123456 1732181080123456789",
    "price 12,345,678.90 KRW, ratio 0.01012345678, seconds 3.01012345678",
    "order no 2026-1121-000123, receipt 20261121094440123, batch 1234567890123",
    "max_tokens=4096 prompt_tokens: 812 completion_tokens=77 token_count=889 tokens: 12",
    "author=kim session_count=3 secretary: lee keyboard=mechanical monkey=1 tokenizer=bpe",
    "Basic authentication failed; bearer authentication is required; basic information updated",
    "invalid token: expired; password: required; 비밀번호: 필수",
    "send it as Authorization: Bearer, or as `Authorization: Basic`",
    "use --token to log in, --password is asked for; password: str = None",
    "password=None token=null secret: true",
    "http://127.0.0.1:8000/monitoring/?range=1h&page=2&key=name",
    "ssh://git@github.com/a/b.git cloned; npm i @scope/pkg@1.2.3",
    "listening on [::1]:8080, peer 10.0.0.1:53122, version 1.22.333.4444",
    "sha256 e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "File \"/app/services/orders.py\", line 88, in place_order",
    "SELECT id, status FROM orders WHERE store_id = $1 AND created_at > $2 LIMIT 50",
    "retry 2 of 5 in 0.4 s: ConnectionRefusedError: [Errno 111] Connection refused",
    "user-agent Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 Chrome/142.0.0.0 Safari/537.36",
    "table 12-34, tables 010, 02-3, room 101-1203, seats 1234-5678",
    "IBAN is missing, card declined, phone not reachable, 카드 승인 거절, 전화 연결 실패",
    "4111 1111 1111 1112 is no card, 999999-1234567 no resident, 123-45-67890 no business",
    "ID AB12CDEFGHIJKLMNO and GB00WEST12345698765432",
    '{"order_id": 7, "items": [{"menu": "bibimbap", "count": 2}], "note": ""}',
    "eyJust kidding. EYE.J",
    "CREATE TABLE orders (pin_count int, auth_method text, cookie_name text)",
    "C:\\work\\orders\\2026\\11 and /var/log/rfs/orders.log",
]  # fmt: skip


class TestOrdinaryText:
    @pytest.mark.parametrize("line", ORDINARY)
    def test_is_left_alone(self, line: str) -> None:
        """
        An ordinary line comes back as it was, as message and as field.
        """
        masker = SHARED

        assert masker.text(line) == line
        assert masker.fields({"note": line}) == {"note": line}

    @given(st.uuids())
    def test_ids_are_no_secrets(self, made: uuid.UUID) -> None:
        """
        No UUID and no hexadecimal id of letters and digits is taken for a card or a number of a person.
        """
        masker = SHARED

        assert masker.fields({"id": str(made), "trace": f"t{made.hex}"}) == {"id": str(made), "trace": f"t{made.hex}"}

    @given(st.integers(min_value=1_577_836_800_000, max_value=1_893_456_000_000))
    @example(1_712_251_234_567)
    def test_milliseconds_are_seldom_a_resident_number(self, milliseconds: int) -> None:
        """
        A time in milliseconds that is masked has a possible birthday and the right check digit.
        """
        shown = SHARED.text(str(milliseconds))

        assert shown == str(milliseconds) or masking._is_resident_number(str(milliseconds))

    @given(st.floats(min_value=0, max_value=1e6), st.integers(min_value=0, max_value=10**11))
    def test_numbers_stay(self, amount: float, count: int) -> None:
        """
        Prices, durations and counts stay numbers.
        """
        assert SHARED.fields({"amount": amount, "count": count}) == {"amount": amount, "count": count}


class TestKeys:
    @pytest.mark.parametrize(
        "key",
        [
            "password", "userPassword", "PASSWORD", "db_passwd", "X-Api-Key", "apikey", "APIKey", "2fa_secret",
            "access_token", "accessTokenV2", "refresh.token", "Authorization", "proxy-authorization", "Set-Cookie",
            "client_secret", "secretKey", "SECRET_KEY_BASE", "sessionId", "jsessionid", "passWord", "password2",
            "card_number", "cvc", "ssn_number", "pin", "otp", "phone", "비밀번호", "비밀번호확인", "주민등록번호",
            "passwordHash", "x_csrf_token", "private-key", "credentials",
        ],
    )  # fmt: skip
    def test_name_of_a_secret_masks(self, key: str) -> None:
        """
        Whatever is under a secret's name goes, in any spelling of the name.
        """
        masker = Masker()

        assert masker.fields({key: "x"}) == {key: "[masked:key]"}
        assert masker.fields({key: {"a": [1, 2]}}) == {key: "[masked:key]"}
        assert masker.fields({"a": [(key, "x")]}) == {"a": [[key, "[masked:key]"]]}

    @pytest.mark.parametrize(
        "key",
        [
            "token_count", "author", "session_count", "secretary", "monkey", "keyboard", "primary_key", "cache_key",
            "auth_method", "password_policy", "tokenizer", "cookie_name", "pin_count", "s_id", "status", "order_id",
            "authority", "bypass", "passenger", "compass_word", "key", "code", "암호화방식", "token_type", "p_in",
        ],
    )  # fmt: skip
    def test_other_name_does_not(self, key: str) -> None:
        """
        A name that only contains or describes a secret's name does not mask.
        """
        assert Masker().fields({key: "x"}) == {key: "x"}

    def test_nothing_and_truth_values_are_shown(self) -> None:
        """
        None, True and False under a secret's name tell no secret.
        """
        fields = {"password": None, "has_token": True}

        assert Masker().fields(fields) == fields

    def test_number_under_a_plural_is_a_count(self) -> None:
        """
        ``max_tokens=4096`` is shown, ``token=4096`` and ``tokens=["a"]`` are not.
        """
        shown = Masker().fields({"max_tokens": 4096, "token": 4096, "tokens": ["a"]})

        assert shown == {"max_tokens": 4096, "token": "[masked:key]", "tokens": "[masked:key]"}

    def test_option_hides_the_next_argument(self) -> None:
        """
        In a command line the word after ``--password`` goes.
        """
        shown = Masker().value(["app", "--password", "hunter2", "--token=abc", "-v", "x"])

        assert shown == ["app", "--password", "[masked:key]", "--token=[masked:key]", "-v", "x"]

    def test_header_lists_count_as_keys(self) -> None:
        """
        Headers are masked by name, as pairs of text or bytes.
        """
        shown = Masker().headers([(b"authorization", b"x"), ("Cookie", "a=b"), ("accept", "text/html")])

        assert shown == [("authorization", "[masked:key]"), ("Cookie", "[masked:key]"), ("accept", "text/html")]
        assert Masker().value([(b"authorization", b"x")]) == [["authorization", "[masked:key]"]]

    def test_allowed_key_is_shown_in_any_spelling(self) -> None:
        """
        An allowed key shows its values, in fields and in text, which are still searched for patterns.
        """
        masker = Masker()
        masker.allow_key("session_id")

        shown = masker.fields({"sessionId": "s-1", "session_id": CARD, "session_key": "x"})

        assert shown == {"sessionId": "s-1", "session_id": "[masked:card]", "session_key": "[masked:key]"}
        assert masker.text("session_id=s-1") == "session_id=s-1"

    def test_own_key(self) -> None:
        """
        A key of the service's own masks in fields and in text.
        """
        masker = Masker(keys=["customer_memo"])

        assert masker.fields({"customerMemo": "x"}) == {"customerMemo": "[masked:key]"}
        assert masker.text("customer_memo=x") == "customer_memo=[masked:key]"


class TestTypes:
    def test_pydantic_secret(self) -> None:
        """
        A SecretStr goes wherever it is.
        """
        shown = Masker().fields({"a": pydantic.SecretStr("x"), "b": [pydantic.SecretBytes(b"x")]})

        assert shown == {"a": "[masked:type]", "b": ["[masked:type]"]}

    def test_marked_fields(self) -> None:
        """
        ``Annotated[..., Sensitive]``, ``metadata`` and ``repr=False`` mark the fields of a dataclass.
        """

        @dataclasses.dataclass
        class Payment:
            order_id: int
            holder: Annotated[str, Sensitive]
            reason: str | None = dataclasses.field(default="c", metadata={"sensitive": True})
            raw: str = dataclasses.field(default="d", repr=False)
            password: str = "e"

        shown = Masker().value(Payment(7, "b"))

        assert shown == {
            "order_id": 7,
            "holder": "[masked:type]",
            "reason": "[masked:type]",
            "raw": "[masked:type]",
            "password": "[masked:key]",
        }

    def test_marked_slots(self) -> None:
        """
        A dataclass with slots is read without its code; an unset field is left out.
        """

        @dataclasses.dataclass(slots=True)
        class Seat:
            number: int
            guest: Annotated[str, Sensitive()]

        seat = Seat(1, "b")
        assert Masker().value(seat) == {"number": 1, "guest": "[masked:type]"}
        del seat.number
        assert Masker().value(seat) == {"guest": "[masked:type]"}

    def test_marked_model_and_struct(self) -> None:
        """
        Models of pydantic and structs of msgspec are read like dataclasses.
        """

        class Guest(pydantic.BaseModel):
            name: Annotated[str, Sensitive]
            memo: str = pydantic.Field(default="m", json_schema_extra={"sensitive": True})
            token: str = "t"
            seats: int = 2

        class Bill(msgspec.Struct):
            holder: Annotated[str, Sensitive]
            total: int

        assert Masker().value(Guest(name="n")) == {
            "name": "[masked:type]",
            "memo": "[masked:type]",
            "token": "[masked:key]",
            "seats": 2,
        }
        assert Masker().value(Bill("h", 3)) == {"holder": "[masked:type]", "total": 3}

    def test_alias_of_a_marked_type(self) -> None:
        """
        A mark is found behind an alias and inside a union.
        """
        alias = Annotated[str, Sensitive]

        assert masking.is_sensitive(alias | None)
        assert masking.is_sensitive("list[Sensitive]")
        assert masking.is_sensitive("masking.Sensitive", masking)
        assert not masking.is_sensitive("Masker | None", masking)
        assert not masking.is_sensitive(dict[str, int])

    def test_attrs_class(self) -> None:
        """
        The fields that attrs leaves on a class are read like a dataclass's.
        """

        class Table:
            __attrs_attrs__ = (
                SimpleNamespace(name="number", repr=True, metadata={}, type=int),
                SimpleNamespace(name="guest", repr=True, metadata={"sensitive": True}, type=str),
                SimpleNamespace(name="note", repr=True, metadata={}, type="Annotated[str, Sensitive]"),
            )

            def __init__(self) -> None:
                self.number = 1
                self.guest = "g"
                self.note = "n"
                self.undeclared = "u"

        assert Masker().value(Table()) == {"number": 1, "guest": "[masked:type]", "note": "[masked:type]"}

    def test_wide_dataclass_is_cut(self) -> None:
        """
        Of a dataclass with a hundred fields 64 are shown, and the number of the others.
        """
        wide = dataclasses.make_dataclass("wide", [(f"f{number}", int, 0) for number in range(100)])

        shown = Masker().value(wide())

        assert isinstance(shown, dict)
        assert len(shown) == 65
        assert shown["<more>"] == 36


class TestPatterns:
    @pytest.mark.parametrize(
        ("text", "masked"),
        [
            ("900101-1234567", True),
            ("900101-9234567", False),  # no such century
            ("901301-1234567", False),  # no such month
            ("900132-1234567", False),  # no such day
            ("410101-3234567", False),  # born in 2041
            ("2011013234567", True),  # born since October 2020: no check digit
            ("9001011234568", True),  # the right check digit
            ("9001011234560", False),
        ],
    )
    def test_resident_number_must_be_plausible(self, text: str, masked: bool) -> None:
        """
        A number that nobody can have is no resident number; without its hyphen it must also have the check digit.
        """
        assert (Masker().text(text) != text) is masked

    def test_address_must_be_one(self) -> None:
        """
        Four numbers with points are an address only if each fits a byte.
        """
        assert (
            Masker(patterns=PATTERNS.values()).text("version 1.22.333.4444, 999.1.1.1")
            == "version 1.22.333.4444, 999.1.1.1"
        )

    def test_email_and_address_are_off_until_named(self) -> None:
        """
        E-mail and IP addresses are masked only where that was asked for.
        """
        text = "ann@example.com from 10.0.0.1 and 2001:db8::7"

        assert Masker().text(text) == text
        masked = Masker(patterns=PATTERNS.values()).text(text)
        assert masked == "[masked:email] from [masked:ip] and [masked:ip]"

    def test_pattern_can_be_switched_off(self) -> None:
        """
        A pattern left out masks nothing.
        """
        masker = Masker(patterns=[pattern for pattern in DEFAULT_PATTERNS if pattern.name != "phone"])

        assert masker.text(f"{PHONE}, {CARD}") == f"{PHONE}, [masked:card]"

    def test_own_pattern(self) -> None:
        """
        A pattern of the service's own masks its first group, and what it accepts only.
        """
        member = Pattern("member", r"^member (\d+)$", lambda digits: digits != "13")
        masker = Masker(patterns=[*DEFAULT_PATTERNS, member])

        assert masker.fields({"a": "member 12", "b": "member 13", "c": "a member 12"}) == {
            "a": "member [masked:member]",
            "b": "member 13",
            "c": "a member 12",
        }

    def test_overlapping_secrets_go_together(self) -> None:
        """
        Where two rules meet nothing of either is left.
        """
        shown = Masker().text(f"Authorization: Bearer {JWT}")

        assert shown == "Authorization: [masked:key]"

    def test_card_behind_other_digits(self) -> None:
        """
        Digits before a card do not hide it.
        """
        assert Masker().text(f"3234 {CARD}") == "3234 [masked:card]"
        assert Masker().text(f"{CARD} {CARD}") == "[masked:card] [masked:card]"

    @pytest.mark.parametrize(
        ("pattern", "fault"),
        [
            (Pattern("Bad", "x"), "a name has lower-case letters, digits and _, at most 32"),
            (Pattern("card", "x"), "the name is taken"),
            (Pattern("key", "x"), "the name is taken"),
            (Pattern("broken", "(x"), "missing ): (x"),
            (Pattern("back", r"(x)\1"), r"invalid escape sequence: \1"),
            (Pattern("empty", "x*"), "must not match empty text"),
        ],
    )
    def test_useless_pattern_is_refused(self, pattern: Pattern, fault: str) -> None:
        """
        A pattern that cannot be used is an error where it is declared.
        """
        with pytest.raises(MaskingError) as caught:
            Masker(patterns=[*DEFAULT_PATTERNS, pattern])

        assert str(caught.value) == f"masking: pattern {pattern.name!r}: {fault}"
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


class TestRegistered:
    @pytest.mark.parametrize("value", ["", "short", "x" * 5000])
    def test_useless_secret_is_refused(self, value: str) -> None:
        """
        A secret too short to be told from ordinary text is refused, and the error does not show it.
        """
        with pytest.raises(MaskingError, match=r"registered secret: must (have|be text)") as caught:
            Masker().register_secret(value)

        assert not value or value not in str(caught.value)

    def test_registering_takes_effect_at_once(self) -> None:
        """
        Text that was found clean before is searched again.
        """
        masker = Masker()
        assert masker.text("gimbap77") == "gimbap77"
        assert masker.fields({"gimbap77": "gimbap77"}) == {"gimbap77": "gimbap77"}

        masker.register_secret("gimbap77")

        assert masker.text("gimbap77") == "[masked:secret]"
        assert masker.fields({"gimbap77": "gimbap77"}) == {"[masked:secret]": "[masked:secret]"}

    def test_too_many_are_refused(self) -> None:
        """
        The 201st secret is refused; the others stay masked.
        """
        masker = Masker(patterns=())
        masker._registered |= {f"secret-{number}" for number in range(200)}

        with pytest.raises(MaskingError, match="registered secret: there are 200 already"):
            masker.register_secret("gimbap77")

        assert masker.text("gimbap77") == "gimbap77"

    def test_longer_of_two_goes(self) -> None:
        """
        A secret that begins with another is masked whole.
        """
        masker = Masker()
        masker.register_secret("gimbap")
        masker.register_secret("gimbap-and-ramen")

        assert masker.text("gimbap-and-ramen, gimbap") == "[masked:secret], [masked:secret]"

    @given(st.text(min_size=6, max_size=40), st.text(max_size=20), st.text(max_size=20))
    def test_any_text_can_be_a_secret(self, secret: str, before: str, after: str) -> None:
        """
        Whatever characters a secret has, it is found between any others.
        """
        masker = Masker(patterns=())
        masker.register_secret(secret)

        shown = masker.text(f"{before}{secret}{after}")

        assert "[masked:" in shown
        assert secret not in shown.replace("[masked:secret]", "\0") or secret in "[masked:secret]"


class TestUrl:
    def test_user_info_and_secret_parameters_go(self) -> None:
        """
        A URL loses its user info and its secret parameters, also when their names are quoted, and keeps the rest.
        """
        url = "https://ann:pw@shop.example/a?page=2&access%5Ftoken=abc&q=x%20y#id_token=abc&n=1"

        shown = Masker().url(url)

        assert (
            shown
            == "https://[masked:url]@shop.example/a?page=2&access%5Ftoken=[masked:key]&q=x%20y#id_token=[masked:key]&n=1"
        )

    def test_quoted_value_is_searched(self) -> None:
        """
        A pattern is found behind URL quoting.
        """
        assert Masker().url("/cb?memo=4111%201111%201111%201111") == "/cb?memo=[masked:card]"

    @pytest.mark.parametrize("url", ["/", "", "/orders/7?page=2", "http://[::1", "//host/a?b", "x:y", "/a?=&&=b"])
    def test_ordinary_url_stays(self, url: str) -> None:
        """
        An ordinary or a broken URL comes back as it was.
        """
        assert Masker().url(url) == url


SNIPPETS = [text for text, _ in CANARIES.values()] + ORDINARY + [
    "", " ", "\n", "=", ":", "?", "&", "-", "@", "pw", "pin", "sid", "token", "password", "secret", "\0", "\u202e", "\ud800",
    "0", "1", "010", "4111", "1234-5678", "eyJ", ".", "Bearer", "Basic", "://", "한글", '{"', "}", "[", '"', "'", "\\",
]  # fmt: skip


class TestPrefilter:
    @given(st.lists(st.one_of(st.sampled_from(SNIPPETS), st.text(max_size=12)), max_size=4).map("".join))
    @example("pw=a")
    @example("pin:1")
    @example("--pw a1b")
    @example("sid%3D1")
    @example("sk_live_0123456789")
    def test_shortcut_and_search_agree(self, text: str) -> None:
        """
        What comes out does not depend on the shortcuts taken, nor on what stands beside it, nor on being asked before.
        """
        searched = masking._Walk(SHARED._plan, search=True).masked_text(text)

        assert SHARED.text(text) == searched
        assert SHARED.text(text) == searched
        assert SHARED.fields({"a": text, "b": "x", "c": "ordinary text beside"})["a"] == searched
        assert SHARED.value([text, text, "more"]) == [searched, searched, "more"]

    @given(st.text(max_size=30))
    def test_what_may_not_match_does_not(self, text: str) -> None:
        """
        Text that the cheap test waves through matches no pattern.
        """
        plan = SHARED._plan

        assert plan.may_match(text) or plan.detect(text.encode()) is None

    def test_memories_are_bounded(self) -> None:
        """
        Masking millions of different texts and keys keeps a few thousand.
        """
        masker = Masker()

        for number in range(5000):
            masker.fields({f"key-{number}-key-key": f"value-{number}-value"})

        plan = masker._plan
        assert len(plan.clean) <= 2048
        assert len(plan.keys) <= 4096
        assert len(plan.plain_keys) <= 4096


class TestCounts:
    def test_each_mask_is_counted_by_rule(self) -> None:
        """
        ``masked`` and the callback count what was masked, once each.
        """
        told: list[tuple[str, str]] = []
        masker = Masker(on_count=lambda name, label: told.append((name, label)))

        masker.fields({"password": "x", "a": {"memo": f"{CARD} {CARD}"}})

        assert {rule: count for rule, count in masker.masked.items() if count} == {"key": 1, "card": 2}
        assert sorted(told) == [("rfs_masked_total", "card")] * 2 + [("rfs_masked_total", "key")]

    def test_failing_callback_harms_nothing(self) -> None:
        """
        A callback that raises neither reaches the caller nor unmasks.
        """

        def told(name: str, label: str) -> None:
            raise RuntimeError(name, label)

        masker = Masker(on_count=told)

        assert "x77x" not in str(masker.fields({"password": "x77x"}))
        assert CARD not in masker.text(CARD)


class TestErrors:
    def test_error_is_described(self) -> None:
        """
        Type, code and message of an exception are kept, and the frames only if asked for.
        """
        error = _raised(LookupError("no menu 7"))

        info = Masker().error(error, stack=False)

        assert info == ErrorInfo("LookupError", "LookupError", "no menu 7", None, expected=False, is_defect=False)
        trace = Masker().error(error, stack=True, is_defect=True).stack_trace
        assert trace is not None
        assert trace.startswith("Traceback (most recent call last):\n  File ")
        assert "in _raised\n    raise error" in trace
        assert trace.endswith("\nLookupError: no menu 7")

    @pytest.mark.parametrize(
        ("error", "message"),
        [
            (KeyError("menu"), "'menu'"),
            (FileNotFoundError(2, "No such file", "a.txt"), "[Errno 2] No such file: 'a.txt'"),
            (ValueError(), ""),
            (ValueError("a", 7), "('a', 7)"),
            (ValueError(object()), "<object>"),
            (UnicodeDecodeError("utf-8", b"hunter2", 0, 1, "bad byte"), "utf-8, bad byte"),
            (ExceptionGroup("two", [ValueError("a"), ValueError("b")]), "two"),
            (MaskingError("key 'x'", "bad"), "masking: key 'x': bad"),
        ],
    )
    def test_message_is_made_of_arguments(self, error: BaseException, message: str) -> None:
        """
        A message is what Python would say, as far as no stranger's code is needed for it.
        """
        assert Masker().error(error, stack=False).message == message

    def test_locals_are_not_kept(self) -> None:
        """
        A local variable's value is in no traceback.
        """

        def fail() -> None:
            hidden = "canary-" + "local"
            raise ValueError(len(hidden))

        try:
            fail()
        except ValueError as error:
            info = Masker().error(error, stack=True)

        assert "canary-local" not in str(info)

    def test_deep_recursion_and_long_chains_are_cut(self) -> None:
        """
        A thousand frames and a hundred causes make a short text that says what was left out.
        """

        def deep(level: int) -> None:
            if level:
                deep(level - 1)
            raise ValueError("bottom")

        try:
            deep(300)
        except ValueError as caught:
            error: BaseException = caught
        for number in range(100):
            outer = ValueError(number)
            outer.__cause__ = error
            error = outer

        trace = Masker().error(error, stack=True).stack_trace

        assert trace is not None
        assert "left out" in trace
        assert len(trace.splitlines()) < 200

    def test_causes_in_a_circle_end(self) -> None:
        """
        Exceptions that cause each other are told once each.
        """
        one, two = ValueError("one"), ValueError("two")
        one.__cause__, two.__cause__ = two, one

        trace = Masker().error(one, stack=True).stack_trace

        assert trace is not None
        assert trace.count("ValueError: two") == 1

    def test_error_that_is_no_exception(self) -> None:
        """
        A domain's error tells its message if it has one, else its fields.
        """

        @dataclasses.dataclass
        class SoldOut:
            menu: str
            message: str = "sold out"

        masker = Masker()

        assert masker.error(SoldOut("ramen"), stack=True).message == "sold out"
        assert masker.error(Order("x"), stack=True).message == '{"memo":"x"}'
        assert masker.error("plain", stack=True).message == "plain"
        assert masker.error(None, stack=True).message == ""
        assert masker.error(object(), stack=True).message == "<object>"
