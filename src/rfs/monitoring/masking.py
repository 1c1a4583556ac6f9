"""
Masking: what leaves a call is rendered by type and holds no secret.

A value is copied into plain JSON by its exact type. No ``__repr__``,
``__str__``, ``__getattr__`` or property of the user's is ever run, so none can
leak, block or raise. On the way a secret is found by five rules:

1. its type: pydantic's ``SecretStr``, ``Annotated[..., Sensitive]``, a field
   with ``metadata={"sensitive": True}`` or ``repr=False``;
2. the name of its key: ``X-Api-Key``, ``userPassword``, ``db_passwd=...``;
3. being a registered secret, in any of its usual encodings;
4. its looks: a JWT, a card number, a Korean resident number;
5. its place in an exception: message, notes, causes and traceback are text too.

It becomes ``[masked:<rule>]``, which shows no part of it. Where masking itself
fails, the whole value becomes ``[masked:error]``: it fails closed.

The price: long and deep values are cut, an object that is neither a plain
container nor a dataclass, struct or model shows only its class, and a secret
that bears none of these marks is not found.

All patterns run on RE2, in time linear in the text. One search with all of
them asks first whether anything is there at all, and text found clean is
remembered for a while, so most records need no search. Nothing here logs; the
one I/O is reading the source lines that a traceback shows, the one clock times
the checks of patterns that are not ours.
"""

from __future__ import annotations

import atexit
import base64
import binascii
import ipaddress
import linecache
import pathlib
import re
import sys
import threading
import typing
import urllib.parse
import uuid
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import Field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from itertools import islice
from threading import Lock
from time import monotonic, perf_counter, sleep
from types import GetSetDescriptorType, MappingProxyType, MemberDescriptorType, ModuleType, TracebackType
from typing import Any, Final, NamedTuple, Protocol, TypeAlias, cast

import msgspec
import re2  # pyright: ignore[reportMissingTypeStubs]

from rfs.core.result import error_code, is_expected
from rfs.errors import MaskingError

__all__ = ["DEFAULT_PATTERNS", "PATTERNS", "ErrorInfo", "JsonValue", "Masker", "Pattern", "Sensitive", "is_sensitive"]

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_DEPTH: Final = 6
MAX_WIDTH: Final = 64
MAX_NODES: Final = 512
MAX_RECORD_CHARS: Final = 16 * 1024
# In bytes of UTF-8, since a record has to fit into a frame of a segment.
TEXT_HEAD_BYTES: Final = 60 * 1024
TEXT_TAIL_BYTES: Final = 4 * 1024
_ONE_PIECE: Final = TEXT_HEAD_BYTES + TEXT_TAIL_BYTES
ERROR_MESSAGE_BYTES: Final = 16 * 1024
ERROR_STACK_BYTES: Final = 16 * 1024
MIN_SECRET_CHARS: Final = 6
# Text is searched this far beyond a cut, so that no secret hides on the seam.
MAX_SECRET_CHARS: Final = 4 * 1024
MAX_SECRETS: Final = 200
MAX_FRAMES: Final = 32
MAX_LINKED_ERRORS: Final = 16
# Candidates looked at in one text by one rule; all text after the last of them is masked.
_MAX_CANDIDATES: Final = 512
# Of a stranger's check; after so many it is asked no more.
_MAX_CHECK_FAULTS: Final = 5
_SLOW_CHECK_SECONDS: Final = 0.01
# A longer number tells only how long it is: all its digits would take milliseconds.
_MAX_INT_BITS: Final = 1 << 18
# A number outside may be a card or a resident number, infinite, or too wide for JSON's readers.
_PLAIN_NUMBER: Final = 1_000_000_000_000
_CLEAN_TEXTS: Final = 2048
_CLEAN_CHARS: Final = 96
_KNOWN_KEYS: Final = 4096
_KNOWN_TYPES: Final = 1024
_JSON_NODES: Final = 4096
_JSON_DEPTH: Final = 64


class Sensitive:
    """
    Marks what must never be shown: ``card: Annotated[str, Sensitive]``.

    Read from the fields of dataclasses, msgspec structs, attrs classes and
    pydantic models. ``field(metadata={"sensitive": True})`` says the same.
    """


class ErrorInfo(msgspec.Struct, frozen=True):
    """What is kept of an error, masked."""

    type: str  # name of the class
    code: str  # what rfs.core.result.error_code says
    message: str
    stack_trace: str | None  # frames, causes and groups, never local variables
    expected: bool  # the domain foresees it
    is_defect: bool  # a bug that surfaced as a Failure


# --- value patterns ---------------------------------------------------------


class Pattern(NamedTuple):
    """
    How a secret looks.

    Args:
        name: The rule that the marker tells: lower-case letters, digits, ``_``.
        regex:
            In RE2's syntax. If it has a group, only the first is the secret.
        accept:
            Has the last word on what the regex found, for what a regex cannot
            say (check digits, dates). Called in the thread that records, which
            it must not hold up. Where it raises, the whole value is masked.
            After it has raised or taken over 10 ms five times it is asked no
            more: its findings then go with the whole value, or by themselves.
    """

    name: str
    regex: str
    accept: Callable[[str], bool] | None = None


def _digits(text: str) -> list[int]:
    return [int(char) for char in text if "0" <= char <= "9"]


def _is_card(text: str) -> bool:
    digits = _digits(text)
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[-2::-2])
    return (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


_MONTH_DAYS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_RESIDENT_WEIGHTS: Final = (2, 3, 4, 5, 6, 7, 8, 9, 2, 3, 4, 5)


def _is_resident_number(text: str) -> bool:
    digits = _digits(text)
    year, month, day = (10 * digits[i] + digits[i + 1] for i in (0, 2, 4))
    if not (1 <= month <= 12 and 1 <= day <= _MONTH_DAYS[month - 1]):
        return False
    born_since_2000 = digits[6] in {3, 4, 7, 8}
    if born_since_2000 and year > 40:
        return False
    if len(text) > len(digits):
        return True
    # Thirteen bare digits may as well be a timestamp in milliseconds, so they
    # must also pass the check digit, which numbers issued since October 2020 lack.
    if born_since_2000 and (year, month) >= (20, 10):
        return True
    total = sum(weight * digit for weight, digit in zip(_RESIDENT_WEIGHTS, digits, strict=False))
    foreigner = digits[6] >= 5
    return digits[12] == ((13 if foreigner else 11) - total % 11) % 10


def _is_business_number(text: str) -> bool:
    digits = _digits(text)
    total = sum(weight * digit for weight, digit in zip((1, 3, 7, 1, 3, 7, 1, 3, 5), digits, strict=False))
    return (total + digits[8] * 5 // 10 + digits[9]) % 10 == 0


def _is_iban(text: str) -> bool:
    compact = text.replace(" ", "")
    return int("".join(str(int(char, 36)) for char in compact[4:] + compact[:4])) % 97 == 1


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _is_word(text: str) -> bool:
    """Say whether *text* reads like a word of a sentence: letters of one case, perhaps capitalised."""
    word = text.rstrip(".,:;!?)`")
    return len(word) < 20 and (not word or (word.isalpha() and not any(map(str.isupper, word[1:]))))


def _is_scheme_token(text: str) -> bool:
    if not _is_word(text):
        return True
    try:
        return ":" in base64.b64decode(text, validate=True).decode("ascii")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return False


def _is_user_info(text: str) -> bool:
    # "git@" names an account, a long name alone is a token.
    return ":" in text or len(text) >= 16


_IBAN_COUNTRIES: Final = {
    15: "NO", 16: "BE", 18: "DK FI FO GL NL SD", 19: "MK SI", 20: "AT BA EE KZ LT LU MN XK", 21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA", 23: "AE GI IL IQ OM SO TL", 24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST", 26: "IS TR", 27: "BI DJ FR GR IT MC MR SM", 28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA", 30: "JO KW MU YE", 31: "MT SC", 32: "LC", 33: "RU",
}  # fmt: skip


def _iban_regex() -> str:
    lengths: list[str] = []
    for length, countries in _IBAN_COUNTRIES.items():
        fours, rest = divmod(length - 4, 4)
        tail = f" ?[0-9A-Z]{{{rest}}}" if rest else ""
        lengths.append(f"(?:{countries.replace(' ', '|')})[0-9]{{2}}(?: ?[0-9A-Z]{{4}}){{{fours}}}{tail}")
    return rf"\b(?:{'|'.join(lengths)})\b"


_KEY_PREFIXES: Final = (
    r"\b(?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}\b",
    r"\bgh[pousr]_[A-Za-z0-9]{30,}",
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"\bgl[a-z]{2,6}-[A-Za-z0-9_-]{20,}",
    r"\bxox[a-z]-[A-Za-z0-9-]{10,}",
    r"\bxapp-[A-Za-z0-9-]{10,}",
    r"hooks\.slack\.com/services/([A-Za-z0-9/]{20,})",
    r"discord(?:app)?\.com/api/webhooks/([0-9]+/[A-Za-z0-9_-]{20,})",
    r"\b[0-9]{8,10}:[A-Za-z0-9_-]{35}\b",
    r"\b(?:sk|pk|rk)_(?:live|test)_[A-Za-z0-9]{10,}",
    r"\b(?:live|test)_g?[sc]k_[A-Za-z0-9]{10,}",
    r"\bwhsec_[A-Za-z0-9+/=]{16,}",
    r"\bsk-[A-Za-z0-9_-]{20,}",
    r"\bAIza[A-Za-z0-9_-]{35}",
    r"\bya29\.[A-Za-z0-9_-]{20,}",
    r"\bGOCSPX-[A-Za-z0-9_-]{20,}",
    r"\bnpm_[A-Za-z0-9]{36}",
    r"\bpypi-[A-Za-z0-9_-]{40,}",
    r"\bhf_[A-Za-z0-9]{30,}",
    r"\bSG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}",
    r"\bkey-[0-9a-f]{32}\b",
    r"\bSK[0-9a-f]{32}\b",
    r"\bdo[opr]_v1_[0-9a-f]{64}\b",
    r"\bshp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}\b",
    r"\bdckr_pat_[A-Za-z0-9_-]{20,}",
    r"\bhv[sb]\.[A-Za-z0-9_-]{24,}",
    r"\bAGE-SECRET-KEY-1[A-Z0-9]{50,}",
)

_PEM_EDGE: Final = r"[A-Z0-9 ]{1,40}-----"

PATTERNS: Final[Mapping[str, Pattern]] = MappingProxyType(
    {
        pattern.name: pattern
        for pattern in (
            Pattern(
                "pem",
                # The second form is what is left of a block whose head was cut off.
                rf"(?s:-----BEGIN {_PEM_EDGE}.*?(?:-----END {_PEM_EDGE}|\z))|[A-Za-z0-9+/=\\\s]*-----END {_PEM_EDGE}",
            ),
            Pattern("jwt", r"eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+){1,4}"),
            Pattern(
                "authorization",
                r"(?i)\b(?:bearer|basic|digest|negotiate)(?:\s|%20|\+)+([A-Za-z0-9._~+/=-]{6,})",
                _is_scheme_token,
            ),
            Pattern(
                "url",
                # A database's password is often not quoted, and may hold "/" and "#".
                r"(?i)\b(?:postgres|mysql|mariadb|mongodb|redis|amqp|mssql|oracle|clickhouse|cockroachdb)[a-z0-9+]*://"
                r"""([^\s"'<>/]*:[^\s"'<>]*)@|\b[a-z][a-z0-9+.-]*://([^\s"'<>/?#]+)@""",
                _is_user_info,
            ),
            Pattern(
                "query",
                r"""(?i)[?&;](?:[a-z0-9._-]*(?:signature|credential|security-token)|sig|code_verifier)=([^\s"'<>&#]+)""",
            ),
            Pattern("api_key", "|".join(f"(?:{prefix})" for prefix in _KEY_PREFIXES)),
            Pattern(
                "card",
                r"\b(?:[3-6][0-9]{12,18}|2[2-7][0-9]{14}"
                r"|[2-6][0-9]{3}(?:[ -][0-9]{4}){3}(?:[ -][0-9]{1,3})?"
                r"|3[47][0-9]{2}[ -][0-9]{6}[ -][0-9]{5}|3[0689][0-9]{2}[ -][0-9]{6}[ -][0-9]{4})\b",
                _is_card,
            ),
            Pattern("resident_number", r"\b[0-9]{6}(?: ?[-\x{2013}] ?)?[1-8][0-9]{6}\b", _is_resident_number),
            Pattern(
                "phone",
                r"(?:^|[^0-9A-Za-z_.])((?:\+?82[-. ]?(?:\(0\))?[-. ]?1|01)(?:0[-. )]{0,2}[0-9]{4}|[16789][-. )]{0,2}[0-9]{3,4})[-. ]?[0-9]{4}"
                r"|\(?0(?:2|3[1-3]|4[1-4]|5[0-5]|6[1-4]|70)(?:-|\. ?|\) ?)[0-9]{3,4}[-. ][0-9]{4})\b",
            ),
            Pattern("business_number", r"\b[0-9]{3}-[0-9]{2}-[0-9]{5}\b", _is_business_number),
            Pattern("iban", _iban_regex(), _is_iban),
            Pattern("email", r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})+"),
            Pattern("ip", r"\b(?:[0-9]{1,3}\.){3}[0-9]{1,3}\b|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}", _is_ip),
        )
    }
)
"""Every named pattern. ``email`` and ``ip`` are known by name only: many logs are of no use without them."""

DEFAULT_PATTERNS: Final = tuple(pattern for pattern in PATTERNS.values() if pattern.name not in {"email", "ip"})


# --- key names --------------------------------------------------------------

# A joint (_) may also be a change of case, other punctuation, or nothing.
_SECRET_KEYS: Final = (
    "pass_word", "pass_words", "pass_wd", "pass_phrase", "pass_code", "pwd", "secret", "secrets", "token", "tokens",
    "credential", "credentials", "creds", "authorization", "cookie", "cookies", "csrf", "xsrf", "csrf_token", "jwt",
    "otp", "totp", "api_key", "api_keys", "access_key", "secret_key", "private_key", "encryption_key", "signing_key",
    "master_key", "shared_key", "account_key", "auth_key", "ssh_key", "session_id", "session_key", "jsession_id",
    "phpsess_id", "mysql_pwd", "db_pass", "user_pass", "admin_pass", "root_pass", "smtp_pass", "mysql_pass", "redis_pass",
    "cvv", "cvc", "cvv2", "cvc2", "card_number", "card_no", "credit_card", "debit_card",
    "ssn", "rrn", "social_security", "jumin", "jumin_no", "resident_number", "resident_registration_number",
    "passport_number", "passport_no", "iban", "bank_account", "phone_number", "mobile_number", "verification_code",
    "recovery_code", "recovery_codes", "security_code", "mfa_code", "2fa_code", "비번", "암호", "토큰", "휴대폰", "핸드폰",
    "연락처",
)  # fmt: skip
# Words of many meanings: secret only as a key's last word.
_SECRET_LAST: Final = frozenset({"auth", "bearer", "pin", "sid", "pw", "phone"})
# Korean joins words without a mark, so these are looked for inside a word.
_SECRET_INSIDE: Final = (
    "비밀번호", "주민번호", "주민등록번호", "외국인등록번호", "카드번호", "계좌번호", "전화번호", "휴대폰번호", "여권번호", "인증번호",
)  # fmt: skip
# Of a secret these tell a property, never the secret: token_count, password_policy.
_PROPERTIES: Final = frozenset({
    "age", "alg", "algorithm", "at", "attempt", "attempts", "bucket", "budget", "changed", "cost", "count",
    "counts", "created", "disabled", "domain", "duration", "enabled", "endpoint", "error", "errors", "exp",
    "expired", "expires", "expiration", "expiry", "failed", "failure", "failures", "format", "httponly", "id",
    "in", "index", "invalid", "issued", "issuer", "kind", "len", "length", "lifetime", "limit", "limits",
    "manager", "max", "method", "min", "mode", "ms", "name", "names", "on", "path", "per", "policies", "policy",
    "price", "provider", "rate", "ratio", "required", "reset", "retries", "rotated", "rotation", "samesite",
    "scope", "scopes", "seconds", "secure", "service", "size", "state", "status", "store", "strength", "total",
    "ttl", "type", "types", "updated", "usage", "use", "used", "valid", "validity", "version", "versions",
})  # fmt: skip
_PLURALS: Final = frozenset({"passwords", "secrets", "tokens", "credentials", "cookies", "apikeys", "recoverycodes"})

_PLAIN, _SECRET, _SECRET_UNLESS_NUMBER = range(3)


def _words(key: str) -> tuple[str, ...]:
    """Split a key on case and punctuation, folded, without the digits that number it."""
    words: list[str] = []
    word = ""
    for index, char in enumerate(key):
        if not char.isalnum():
            words.append(word)
            word = ""
            continue
        if char.isupper() and word:
            before, after = key[index - 1], key[index + 1 : index + 2]
            if not before.isupper() or after.islower():
                words.append(word)
                word = ""
        word += char
    words.append(word)
    folded = (word.casefold() for word in words)
    return tuple(word.rstrip("0123456789") or word for word in folded if word)


class _KeyRules:
    """Which key names hold secrets."""

    def __init__(self, extra: Iterable[str], allowed: frozenset[tuple[str, ...]]) -> None:
        self.extra = tuple(extra)
        self.allowed = allowed
        names = (*_SECRET_KEYS, *("_".join(_words(key)) for key in self.extra))
        self.joined = frozenset(name.replace("_", "") for name in names)
        self.longest = max(name.count("_") + 1 for name in names)
        self.regex = "|".join(
            [*(re.escape(name).replace("_", "[_. -]?") for name in names), *_SECRET_INSIDE, *sorted(_SECRET_LAST)]
        )

    def verdict(self, key: str) -> int:
        words = _words(key[:256])
        if words in self.allowed:
            return _PLAIN
        found = _PLAIN
        for start in range(len(words)):
            joined = ""
            for stop in range(start + 1, min(start + self.longest, len(words)) + 1):
                joined += words[stop - 1]
                # Letters that merely meet ("s_id") make no short word.
                if joined in self.joined and (stop == start + 1 or len(joined) > 4):
                    following = words[stop] if stop < len(words) else ""
                    if following not in _PROPERTIES:
                        if joined not in _PLURALS:
                            return _SECRET
                        found = _SECRET_UNLESS_NUMBER
            if any(name in words[start] for name in _SECRET_INSIDE):
                return _SECRET
        if words and words[-1] in _SECRET_LAST:
            return _SECRET
        return found


# --- the search -------------------------------------------------------------


class _Match(Protocol):
    def span(self, group: int = 0) -> tuple[int, int]: ...


class _Regex(Protocol):
    @property
    def groups(self) -> int: ...
    def search(self, text: bytes, pos: int = 0) -> _Match | None: ...


class _Span(NamedTuple):
    start: int
    stop: int
    rule: str


# Given the text and a match: where the secret is, if one is there, and where to look on.
_Find: TypeAlias = "Callable[[bytes, _Match], tuple[tuple[int, int] | None, int]]"


class _Search(NamedTuple):
    rule: str
    regex: _Regex
    find: _Find


_engine: Any = re2  # it has no types of its own


def _compile(regex: str, subject: str) -> _Regex:
    options = _engine.Options()
    options.log_errors = False
    options.max_mem = 64 << 20
    try:
        return cast("_Regex", _engine.compile(regex.encode(), options))
    except _engine.error as error:
        fault = error.args[0] if error.args else "not RE2 syntax"
        raise MaskingError(subject, fault.decode() if isinstance(fault, bytes) else str(fault)) from None


def _detector(regexes: Iterable[str]) -> Callable[[bytes], list[int] | None]:
    """Return a search that says which of *regexes* a text matches."""
    options = _engine.Options()
    options.log_errors = False
    options.never_capture = True
    options.max_mem = 64 << 20
    together = _engine.Set.SearchSet(options)
    for regex in regexes:
        together.Add(regex)
    together.Compile()
    search = cast("Callable[[bytes], list[int] | None]", together.Match)

    def match(data: bytes) -> list[int] | None:
        if _ending:
            _stand_still()
        return search(data)

    return match


def _secret_span(match: _Match, groups: int) -> tuple[int, int]:
    for group in range(1, groups + 1):
        span = match.span(group)
        if span[0] >= 0:
            return span
    return match.span()


_asking: set[int] = set()  # threads that are inside a check


class _Check:
    """
    A stranger's ``accept``, with a breaker that fails closed.

    One that records something is not asked about what it records: that counts as accepted.

    ``KeyboardInterrupt`` and ``SystemExit`` go through: a signal handler may have raised them, and they are not ours.
    """

    __slots__ = ("_accept", "_raised", "_slow", "_tell")

    def __init__(self, accept: Callable[[str], bool], tell: Callable[[str], None]) -> None:
        self._accept = accept
        self._tell = tell
        self._raised = 0
        self._slow = 0

    def __call__(self, text: str) -> bool:
        if self._raised >= _MAX_CHECK_FAULTS:
            raise RuntimeError("a pattern's check has raised too often")
        if self._slow >= _MAX_CHECK_FAULTS:
            return True
        thread = threading.get_ident()
        if thread in _asking:
            self._tell("reentrant")
            return True
        began = perf_counter()
        try:
            _asking.add(thread)
            accepted = bool(self._accept(text))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as fault:
            self._raised += 1
            self._tell("hook_error")
            raise RuntimeError("a pattern's check raised") from fault
        finally:
            _asking.discard(thread)
        if perf_counter() - began > _SLOW_CHECK_SECONDS:
            self._slow += 1
            self._tell("hook_timeout")
        return accepted


def _pattern_search(pattern: Pattern) -> _Search:
    regex = _compile(pattern.regex, f"pattern {pattern.name!r}")
    accept = pattern.accept
    groups = regex.groups

    def find(data: bytes, match: _Match) -> tuple[tuple[int, int] | None, int]:
        start, stop = _secret_span(match, groups)
        if accept is None or accept(data[start:stop].decode("utf-8", "replace")):
            return (start, stop), stop
        return None, match.span()[0] + 1

    return _Search(pattern.name, regex, find)


_ASSIGNED: Final = (
    r"""["'\\\])]{0,6}[ \t]*(=>|:=|=|:|%3[Dd])[ \t]*"""
    r"""(?:b?\\+"((?:[^"\\]|\\+[^"\\])*)|b?"((?s:[^"\\]|\\.)*)|b?'((?s:[^'\\]|\\.)*)|([\[{].*)|([^\s"'&;<>]+))"""
)
# What was masked already, and nothing behind it.
_MARKED: Final = re.compile(r"\[masked:\w+\](?:[&;,)}\]\s]|$)")
_NOT_A_SECRET: Final = frozenset({"", "none", "null", "nil", "true", "false", "undefined"})


def _assignment_regex(rules: _KeyRules) -> str:
    return rf"(?i)([\w.-]*(?:{rules.regex})[\w.-]*){_ASSIGNED}"


def _assignment_search(rules: _KeyRules) -> _Search:
    """Look for ``password=...``, ``"apiKey": "..."`` and their like in text, by the same rules as for keys."""

    def find(data: bytes, match: _Match) -> tuple[tuple[int, int] | None, int]:
        key_start, key_stop = match.span(1)
        verdict = rules.verdict(data[key_start:key_stop][-256:].decode("utf-8", "replace"))
        if verdict == _PLAIN:
            return None, key_stop
        start, stop = next(span for span in map(match.span, range(3, 8)) if span[0] >= 0)
        value = data[start:stop].decode("utf-8", "replace")
        bare_colon = match.span(2)[0] == key_stop and data[slice(*match.span(2))] == b":" and match.span(7)[0] >= 0
        if (
            value.rstrip(",)}]").lower() in _NOT_A_SECRET
            or value.startswith("=")
            or _MARKED.match(value)
            or (verdict == _SECRET_UNLESS_NUMBER and value.rstrip(",)}]").isdecimal())
            # "invalid token: expired" is a sentence
            or (bare_colon and _is_word(value))
        ):
            return None, key_stop
        return (start, stop), stop

    return _Search("key", _compile(_assignment_regex(rules), "keys"), find)


def _loose_regex(rules: _KeyRules) -> str:
    key = rf"([\w.-]*(?:{rules.regex})[\w.-]*)"
    return (
        rf"(?i)--{key}[ \t]+([^\s-]\S*)"
        rf"""|{key}:[ \t]*[A-Za-z_][\w.\[\]| ]{{0,40}}=[ \t]*b?(?:"([^"\n]*)|'([^'\n]*))"""
    )


def _loose_search(rules: _KeyRules) -> _Search:
    """Look for ``--password hunter2`` and ``password: str = "hunter2"``, a command line and a line of source."""

    def find(data: bytes, match: _Match) -> tuple[tuple[int, int] | None, int]:
        key_start, key_stop = next(span for span in map(match.span, (1, 3)) if span[0] >= 0)
        start, stop = next(span for span in map(match.span, (2, 4, 5)) if span[0] >= 0)
        value = data[start:stop].decode("utf-8", "replace")
        if rules.verdict(data[key_start:key_stop][-256:].decode("utf-8", "replace")) == _PLAIN:
            return None, key_stop
        # "--token to log in" is a sentence
        return (None if match.span(2)[0] >= 0 and _is_word(value) else (start, stop)), stop

    return _Search("key", _compile(_loose_regex(rules), "keys"), find)


_HEADER_REGEX: Final = (
    r"""(?i)\b(?:authorization|cookie)["'\\\])]{0,6}[ \t]*[:=,][ \t]*(?:b?["'\\]+)?([^\s"'\\\[{][^\r\n"'\\]{2,})"""
)


def _header_search() -> _Search:
    """Look for the two headers whose value goes on to the end of the line."""

    def find(data: bytes, match: _Match) -> tuple[tuple[int, int] | None, int]:
        start, stop = match.span(1)
        words = data[start:stop].decode("utf-8", "replace").split(maxsplit=2)
        if words[0].rstrip("`.,:;)").lower() in {"bearer", "basic", "digest", "token", "negotiate", "apikey"}:
            words = words[1:]
        return (None if not words or _is_word(words[0]) else (start, stop)), stop

    return _Search("key", _compile(_HEADER_REGEX, "keys"), find)


def _secret_search(forms: Iterable[str]) -> tuple[str, _Search]:
    # Longest first: of two that begin at one place the longer one is masked.
    regex = "|".join(map(_quote, sorted(forms, key=len, reverse=True)))

    def find(data: bytes, match: _Match) -> tuple[tuple[int, int] | None, int]:
        del data
        return match.span(), match.span()[1]

    return regex, _Search("secret", _compile(regex, "registered secrets"), find)


def _quote(literal: str) -> str:
    return cast("str", _engine.escape(literal))


# Shown as escapes: what no encoder takes (lone surrogates), NUL, and what reorders text on a screen.
_UNSHOWN: Final = "\0\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"
_UNSHOWN_TEXT: Final = re.compile(f"[{_UNSHOWN}\ud800-\udfff]")
_UNSHOWN_REGEX: Final = r"[\x00\x{61c}\x{200e}\x{200f}\x{202a}-\x{202e}\x{2066}-\x{2069}]"
_JSON_REGEX: Final = r"[{]\s*\""


def _shown(text: str) -> str:
    return _UNSHOWN_TEXT.sub(lambda match: ascii(match.group())[1:-1], text)


def _secret_forms(value: str) -> set[str]:
    """Return *value* as it is written in URLs, JSON, Python, hexadecimal and base64, there also inside other bytes."""
    import json  # here, since few services register a secret

    value = _shown(value)
    raw = value.encode()
    quoted = {urllib.parse.quote(value, safe=""), urllib.parse.quote(value), urllib.parse.quote_plus(value)}
    quoted |= {re.sub("%[0-9A-F]{2}", lambda match: match.group().lower(), form) for form in quoted}
    escaped = {value}
    for _ in range(2):  # a text within a text, as JSON in JSON or a KeyError's message
        for form in tuple(escaped):
            escaped |= {
                json.dumps(form)[1:-1],
                json.dumps(form, ensure_ascii=False)[1:-1],
                repr(form)[1:-1],
                ascii(form)[1:-1],
            }
    forms = {raw.hex(), raw.hex().upper(), repr(raw)[2:-1]} | quoted | escaped
    for offset in range(3):
        # Base64 writes three bytes as four letters, so a value has three forms, by where it begins.
        # The letters that also hold bits of a neighbour are left out.
        encoded = base64.b64encode(b"\0" * offset + raw).decode()
        spare = (offset + len(raw)) % 3
        inner = encoded[(0, 2, 3)[offset] : len(encoded) - (0, 3, 2)[spare]]
        forms |= {inner, inner.replace("+", "-").replace("/", "_")}
    return {form for form in forms if len(form) >= MIN_SECRET_CHARS}


class _Plan:
    """Everything one masker looks for, compiled. Replaced as a whole when a secret or a key is added."""

    __slots__ = (
        "_escape",
        "_json",
        "_searches",
        "_short",
        "_wordlike",
        "clean",
        "detect",
        "joinable",
        "keys",
        "plain_keys",
        "rules",
        "types",
    )

    def __init__(self, patterns: tuple[Pattern, ...], rules: _KeyRules, secrets: frozenset[str]) -> None:
        self.rules = rules
        self._searches: list[_Search] = []
        regexes: list[str] = []
        if secrets:
            regex, search = _secret_search(secrets)
            regexes.append(regex)
            self._searches.append(search)
        regexes += [_assignment_regex(rules), _loose_regex(rules), _HEADER_REGEX]
        self._searches += [_assignment_search(rules), _loose_search(rules), _header_search()]
        for pattern in patterns:
            regexes.append(pattern.regex)
            self._searches.append(_pattern_search(pattern))
        self._escape, self._json = len(regexes), len(regexes) + 1
        self.detect = _detector([*regexes, _UNSHOWN_REGEX, _JSON_REGEX])
        # Our own patterns take a line's end for an end of text, so that the
        # texts of a record can be searched as one. Nobody knows that of others.
        own = all(PATTERNS.get(pattern.name) == pattern for pattern in patterns)
        self.joinable = own
        # What is shorter matches nothing, see may_match.
        shortest_secret = min(map(len, secrets), default=sys.maxsize)
        self._short = min(10, shortest_secret) if own else 0
        self._wordlike = min(18, shortest_secret) if own else 0
        # Four memories, emptied when full. Each operation on them is atomic.
        self.clean: set[str] = set()
        self.plain_keys: set[str] = set()
        self.keys: dict[str, tuple[int, str]] = {}
        self.types: dict[int, _Kind] = {}

    def remember(self, text: str) -> None:
        """Skip the search when *text*, which is clean and short, comes again."""
        if len(self.clean) >= _CLEAN_TEXTS:
            self.clean.clear()
        self.clean.add(text)

    def may_match(self, text: str) -> bool:
        """
        Say cheaply whether *text* needs a search; a test holds that no match is missed.

        Under 10 characters only a key and its value match, and these have a mark
        between or before them. Under 18 no pattern matches a mere identifier.
        """
        size = len(text)
        if size < self._short and "=" not in text and ":" not in text and "%" not in text and "--" not in text:
            return not text.isprintable()
        return not (size < self._wordlike and text.isidentifier())

    def is_clean(self, texts: list[str]) -> bool:
        """Say whether nothing is found in any of *texts*; false also where that is not certain."""
        if not self.joinable and len(texts) > 1:
            return all(self.is_clean([text]) for text in texts)
        try:
            return not self.detect("\n".join(texts).encode())
        except UnicodeEncodeError:  # a lone surrogate, to be escaped
            return False

    def spans(self, data: bytes, found: list[int]) -> list[_Span]:
        """Return what must go from *data*, in order and without overlaps."""
        spans: list[_Span] = []
        for index in sorted(found):
            if index < self._escape:
                spans += _search_all(self._searches[index], data)
        # Of two that overlap both go, under the name of the rule that was asked first.
        merged: list[_Span] = []
        for span in sorted(spans, key=lambda span: span.start):
            if merged and span.start < merged[-1].stop:
                last = merged[-1]
                rule = min(last, span, key=spans.index).rule if last in spans else last.rule
                merged[-1] = _Span(last.start, max(last.stop, span.stop), rule)
            else:
                merged.append(span)
        return merged

    def finds_json(self, found: list[int]) -> bool:
        return self._json in found


_ending = False
_LONGEST_END_SECONDS = 1.0


def _end() -> None:
    """
    Keep daemon threads out of the engine from now on, and wait until those inside it have come out.

    The engine is C++. CPython before 3.14 ends a thread that wants the interpreter back while it finalises by unwinding
    its stack, which C++ answers by ending the whole process with SIGABRT.
    """
    global _ending  # noqa: PLW0603 - said once, at the end of the process
    _ending = True
    deadline = monotonic() + _LONGEST_END_SECONDS
    while _is_anybody_inside() and monotonic() < deadline:
        sleep(0.001)


def _is_anybody_inside() -> bool:
    """Whether another thread is in the engine, or so near that it may not see that it is to stay out."""
    own = threading.get_ident()
    return any(
        frame.f_code.co_filename in (__file__, re2.__file__) and frame.f_code is not _stand_still.__code__
        for thread, frame in sys._current_frames().items()  # pyright: ignore[reportPrivateUsage]
        if thread != own
    )


def _stand_still() -> None:
    """Hold a daemon thread where the interpreter, which is ending, will forget it."""
    while threading.current_thread() is not threading.main_thread():
        sleep(3600)


atexit.register(_end)


def _search_all(search: _Search, data: bytes) -> list[_Span]:
    if _ending:
        _stand_still()
    spans: list[_Span] = []
    position = 0
    for _ in range(_MAX_CANDIDATES):
        match = search.regex.search(data, position)
        if match is None:
            return spans
        span, position = search.find(data, match)
        if span is not None:
            spans.append(_Span(*span, search.rule))
        position = max(position, match.span()[0] + 1)
        if position >= len(data):
            return spans
    match = search.regex.search(data, position)
    if match is not None:
        spans.append(_Span(match.span()[0], len(data), search.rule))
    return spans


def _splice(data: bytes, spans: list[_Span], counts: dict[str, int], start: int, stop: int) -> str:
    """Return *data* from *start* to *stop* with a marker for each span that touches it."""
    parts: list[bytes] = []
    for span in spans:
        if span.stop <= start or span.start >= stop:
            continue
        parts += (data[start : span.start], f"[masked:{span.rule}]".encode())
        counts[span.rule] = counts.get(span.rule, 0) + 1
        start = span.stop
    parts.append(data[start:stop])
    return b"".join(parts).decode("utf-8", "ignore")


# --- types ------------------------------------------------------------------

# type's own descriptors, past any metaclass that answers differently.
_mro_of: Callable[[type], tuple[type, ...]] = type.__dict__["__mro__"].__get__
_names_of: Callable[[type], Mapping[str, object]] = type.__dict__["__dict__"].__get__
_name_of: Callable[[type], str] = type.__dict__["__name__"].__get__
_qualname_of: Callable[[type], str] = type.__dict__["__qualname__"].__get__
_items_of: Callable[[object], Iterator[object]] = tuple.__dict__["__iter__"]
_module_of: Callable[[type], object] = type.__dict__["__module__"].__get__


def _class_marker(cls: type) -> str:
    module = _module_of(cls)
    name = _qualname_of(cls)
    return f"<{name}>" if module == "builtins" or type(module) is not str else f"<{module}.{name}>"


def _instance_dict(value: object) -> dict[str, object] | None:
    """Return the attributes kept in *value* itself, asking nothing of its class's code."""
    for base in _mro_of(type(value)):
        slot = _names_of(base).get("__dict__")
        if type(slot) is GetSetDescriptorType:
            names: object = slot.__get__(value)
            return cast("dict[str, object]", names) if type(names) is dict else None
    return None


class _Field(NamedTuple):
    name: str
    secret: bool
    slot: MemberDescriptorType | None  # None: kept in the instance's dict


class _Kind(NamedTuple):
    """How instances of a class are rendered."""

    cls: type
    way: str
    fields: tuple[_Field, ...] = ()


_SECRET_TYPES: Final = frozenset({"SecretStr", "SecretBytes", "Secret", "_SecretBase", "_SecretField"})
_SECRET_MODULES: Final = frozenset({"pydantic", "pydantic_settings", "starlette"})


def _is_numpy_scalar(cls: type) -> bool:
    """Say whether *cls* is one of numpy's own scalars, whose ``item`` is numpy's code and nobody else's."""
    numpy = sys.modules.get("numpy")
    if type(numpy) is not ModuleType:
        return False
    names = vars(numpy)
    return names.get(_name_of(cls)) is cls and any(base is names.get("generic") for base in _mro_of(cls))


def _kind_of(cls: type) -> _Kind:
    mro = _mro_of(cls)
    for base in mro:
        module = _module_of(base)
        if type(module) is str and _name_of(base) in _SECRET_TYPES and module.partition(".")[0] in _SECRET_MODULES:
            return _Kind(cls, "secret")
    for known, way in (
        (Enum, "enum"), (BaseException, "error"), (str, "str"), (int, "int"), (float, "float"),
    ):  # fmt: skip
        if any(base is known for base in mro):
            return _Kind(cls, way)
    if _is_numpy_scalar(cls):
        return _Kind(cls, "numpy")
    fields = _declared_fields(mro)
    if fields is None:
        return _Kind(cls, "marker")
    return _Kind(cls, "tuple" if any(base is tuple for base in mro) else "fields", fields)


def _declared_fields(mro: tuple[type, ...]) -> tuple[_Field, ...] | None:
    """Return the fields of a dataclass, attrs class, struct, model or named tuple; None for any other class."""
    slots: dict[str, MemberDescriptorType] = {}
    for base in reversed(mro):
        slots |= {name: slot for name, slot in _names_of(base).items() if type(slot) is MemberDescriptorType}
    for base in mro:
        names = _names_of(base)
        module = sys.modules.get(str(_module_of(base)))
        declared: dict[str, bool] = {}
        if type(fields := names.get("__dataclass_fields__")) is dict:
            for name, field in cast("dict[str, Field[object]]", fields).items():
                secret = not field.repr or field.metadata.get("sensitive") is True
                declared[name] = secret or is_sensitive(field.type, module)
        elif isinstance(attributes := names.get("__attrs_attrs__"), tuple):
            for field in cast("Iterable[Any]", attributes):
                secret = not field.repr or field.metadata.get("sensitive") is True
                declared[field.name] = secret or is_sensitive(field.type, module)
        elif type(fields := names.get("__pydantic_fields__")) is dict:
            for name, field in cast("dict[str, Any]", fields).items():
                extra: Any = field.json_schema_extra
                secret = not field.repr or (type(extra) is dict and cast("Any", extra).get("sensitive") is True)
                marks = any(mark is Sensitive or type(mark) is Sensitive for mark in field.metadata)
                declared[name] = secret or marks or is_sensitive(field.annotation, module)
        elif base is msgspec.Struct or (type(fields := names.get("_fields")) is tuple and tuple in mro):
            for owner in reversed(mro):
                annotations = _names_of(owner).get("__annotations__")
                if type(annotations) is dict:
                    owner_module = sys.modules.get(str(_module_of(owner)))
                    for name, annotation in cast("dict[str, object]", annotations).items():
                        if base is not msgspec.Struct or name in slots:
                            declared[name] = is_sensitive(annotation, owner_module)
            if base is not msgspec.Struct:
                declared = {str(name): declared.get(str(name), False) for name in cast("tuple[object, ...]", fields)}
        else:
            continue
        return tuple(_Field(name, secret, slots.get(name)) for name, secret in declared.items())
    return None


def is_sensitive(annotation: object, module: object = None) -> bool:
    """
    Say whether *annotation* carries :class:`Sensitive` anywhere inside.

    One that is still text (``from __future__ import annotations``) is not
    evaluated: the names in it are looked up in *module*.
    """
    if annotation is Sensitive or type(annotation) is Sensitive:
        return True
    if type(annotation) is str:
        for dotted in re.findall(r"[^\W\d][\w.]*", annotation):
            if dotted.rpartition(".")[2] == "Sensitive":
                return True
            found: object = module
            for part in dotted.split("."):
                found = vars(found).get(part) if type(found) in _NAMESPACES else None
            if type(found) is not str and found is not None and is_sensitive(found):
                return True
        return False
    inside = typing.get_args(annotation)
    return bool(inside) and any(is_sensitive(part, module) for part in inside)


_NAMESPACES: Final = frozenset({ModuleType, type})


# --- rendering --------------------------------------------------------------

_ERROR_MARKER: Final = "[masked:error]"
_KEY_MARKER: Final = "[masked:key]"
_TYPE_MARKER: Final = "[masked:type]"
_CYCLE: Final = "<cycle>"
_CUT: Final = "<cut>"


def _int_text(value: int) -> str:
    # Beyond this the decimal text costs quadratic time, and CPython refuses it.
    bits = value.bit_length()
    if bits < 8192:
        return int.__repr__(value)
    return int.__format__(value, "#x") if bits <= _MAX_INT_BITS else f"<int of {bits} bits>"


# More than will be shown, so that the cut is made after masking, and no more of it is copied.
_SOME: Final = slice(_ONE_PIECE + 2 * MAX_SECRET_CHARS)


def _str_text(value: str) -> str:
    """The text of an instance of a subclass, as far as it will be shown."""
    return str.__getitem__(value, _SOME)


def _float_text(value: float) -> str:
    if value != value:
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"


def _loaded(module: str, name: str) -> Any:
    """Return a class if its module was imported: without that nothing can be of it, and importing it takes time."""
    return getattr(sys.modules.get(module), name, None)


def _datetime_text(value: datetime | time) -> str:
    zone = type(value.tzinfo)
    if zone is type(None) or zone is timezone or zone is _loaded("zoneinfo", "ZoneInfo"):
        return value.isoformat()
    # A stranger's time zone would be asked for its offset.
    return f"{value.replace(tzinfo=None).isoformat()}<{_qualname_of(zone)}>"


def _bytes_text(value: bytes | bytearray) -> str:
    # More than will be shown, so that the cut is made after masking.
    return bytes(value[: 4 * (MAX_RECORD_CHARS + MAX_SECRET_CHARS)]).decode("utf-8", "backslashreplace")


# No stranger's code runs in these, for values of exactly these types.
_Render: TypeAlias = Callable[[Any], str]
# Digits, and letters of ours: no pattern is looked for in these.
_SAFE_TEXT: Final = cast(
    "Mapping[type, _Render]",
    {datetime: _datetime_text, time: _datetime_text, date: date.isoformat}
    | {kind: kind.__str__ for kind in (timedelta, uuid.UUID, range, complex)},
)
# These hold what the user wrote.
_FREE_TEXT: Final = cast(
    "Mapping[type, _Render]",
    {bytes: _bytes_text, bytearray: _bytes_text, Decimal: Decimal.__str__}
    | {kind: kind.__str__ for kind in (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath)}
    | {kind: kind.__str__ for kind in (ipaddress.IPv4Address, ipaddress.IPv6Address)},
)
_SEQUENCES: Final = frozenset({list, tuple, set, frozenset, deque})
_MAPPINGS: Final = frozenset({dict, OrderedDict, defaultdict, Counter})


class _Walk:
    """Copies one value, within its bounds. Used once, by one thread."""

    def __init__(
        self,
        plan: _Plan,
        *,
        search: bool,
        depth: int = MAX_DEPTH,
        width: int = MAX_WIDTH,
        nodes: int = MAX_NODES,
    ) -> None:
        self.plan = plan
        self.search = search  # each text by itself; else they are gathered, to be searched as one
        self.texts: list[str] = []
        self.masked: dict[str, int] = {}
        self.cut: dict[str, int] = {}
        self._depth = depth
        self._width = width
        self._nodes = nodes
        self._room = MAX_RECORD_CHARS
        self._inside: set[int] = set()

    def hide(self, rule: str, marker: str) -> str:
        self.masked[rule] = self.masked.get(rule, 0) + 1
        return marker

    def shorten(self, bound: str, marker: str = _CUT) -> str:
        self.cut[bound] = self.cut.get(bound, 0) + 1
        return marker

    def record(self, fields: dict[object, object]) -> dict[str, JsonValue]:
        """Copy the fields of a record, each failing for itself."""
        self._inside.add(id(fields))
        return self.mapping(fields, 1)

    def value(self, value: object, depth: int) -> JsonValue:
        self._nodes -= 1
        if self._nodes < 0 or self._room <= 0:
            return self.shorten("nodes" if self._nodes < 0 else "chars")
        kind = type(value)
        try:
            if kind is str:
                return self.text(cast("str", value))
            if value is None or kind is bool:
                return cast("bool | None", value)
            if kind is int:
                return self.integer(cast("int", value))
            if kind is float:
                return self.number(cast("float", value))
            return self._other(value, kind, depth)
        except Exception:  # noqa: BLE001 - fails closed: whatever went wrong, the value must not be shown
            return self.hide("error", _ERROR_MARKER)

    def integer(self, value: int) -> int | str:
        if -_PLAIN_NUMBER < value < _PLAIN_NUMBER:
            return value
        text = _int_text(value)
        shown = self.masked_text(text[:MAX_RECORD_CHARS]) if len(text) > 64 or not self.plan.is_clean([text]) else text
        if shown != text or value.bit_length() > 63:
            return shown
        return value

    def number(self, value: float) -> float | str:
        if -_PLAIN_NUMBER < value < _PLAIN_NUMBER:
            return value
        if value - value != 0:
            return _float_text(value)
        text = float.__repr__(value)
        whole = int.__repr__(int(value)) if abs(value) < 1e19 else text
        return value if self.plan.is_clean([whole]) else self.masked_text(whole)

    def text(self, text: str) -> str:
        """Return *text* as it may be shown; for the moment unsearched if it is short and texts are gathered."""
        weight = 1 if text.isascii() else 3  # roughly its bytes: a record must fit into a frame
        room = self._room // weight
        self._room -= len(text) * weight
        if len(text) <= _CLEAN_CHARS and len(text) <= room:
            if text in self.plan.clean:
                return text
            if not self.plan.may_match(text):
                return text
            if not self.search:
                self.texts.append(text)
                return text
        if len(text) <= room:
            return self.masked_text(text)
        self.shorten("chars")
        return f"{self.masked_text(text[: room + MAX_SECRET_CHARS], room)}{_CUT}"

    def masked_text(self, text: str, stop: int | None = None) -> str:
        """Return *text* searched and escaped, as far as *stop*."""
        shown = _shown(text)
        data = shown.encode()
        found = self.plan.detect(data) or []
        if self.plan.finds_json(found) and stop is None:
            masked = self._json(shown)
            if masked is not None:
                return masked
        end = len(data) if stop is None else len(shown[:stop].encode())
        spans = self.plan.spans(data, found) if found else []
        return _splice(data, spans, self.masked, 0, end)

    def _json(self, text: str) -> str | None:
        """Treat text that is JSON as data, if there is something to mask in it."""
        if text.lstrip()[:1] not in {"{", "["}:
            return None
        try:
            data: object = msgspec.json.decode(text)
        except (msgspec.DecodeError, RecursionError):
            return None
        inner = _Walk(self.plan, search=True, depth=_JSON_DEPTH, width=_JSON_NODES, nodes=_JSON_NODES)
        masked = inner.value(data, 0)
        for rule, count in inner.masked.items():
            self.masked[rule] = self.masked.get(rule, 0) + count
        for bound, count in inner.cut.items():
            self.cut[bound] = self.cut.get(bound, 0) + count
        return msgspec.json.encode(masked).decode() if inner.masked or inner.cut else None

    def _other(self, value: object, kind: type, depth: int) -> JsonValue:
        # A class with a metaclass of its own might answer for its hash.
        if type(kind) is type:
            if kind in _MAPPINGS:
                return self._nested(value, depth, self.mapping)
            if kind in _SEQUENCES:
                return self._nested(value, depth, self._sequence)
            if (safe := _SAFE_TEXT.get(kind)) is not None:
                return self._charge(safe(value))
            if (free := _FREE_TEXT.get(kind)) is not None:
                return self.text(free(value))
        if kind is _loaded("fractions", "Fraction"):
            fraction = cast("Any", value)
            return self.text(f"{_int_text(fraction.numerator)}/{_int_text(fraction.denominator)}")
        way = self._kind(kind)
        if way.way == "secret":
            return self.hide("type", _TYPE_MARKER)
        if way.way == "str":
            return self.text(_str_text(cast("str", value)))
        if way.way == "int":
            return self.integer(int.__int__(cast("int", value)))
        if way.way == "float":
            return self.number(float.__float__(cast("float", value)))
        if way.way == "enum":
            member = (_instance_dict(value) or {}).get("_value_")
            return (
                self.value(member, depth)
                if type(member) in {str, int, float, bool}
                else self._charge(_class_marker(kind))
            )
        if way.way == "error":
            return self.text(f"{_qualname_of(kind)}: {_ends(_message(cast('BaseException', value)))}")
        if way.way == "numpy":
            item = cast("Any", kind).item(value)
            # The widest float has no counterpart and answers with itself.
            return self._charge(_class_marker(kind)) if type(item) is kind else self.value(item, depth)
        if way.way == "marker":
            return self._charge(
                _class_marker(cast("type", value) if any(base is type for base in _mro_of(kind)) else kind)
            )
        return self._nested((way, value), depth, self._fields, value)

    def _kind(self, cls: type) -> _Kind:
        kinds = self.plan.types
        known = kinds.get(id(cls))
        if known is None or known.cls is not cls:
            known = _kind_of(cls)
            if len(kinds) >= _KNOWN_TYPES:
                kinds.clear()
            kinds[id(cls)] = known
        return known

    def _charge(self, text: str) -> str:
        self._room -= len(text)
        return text

    def _nested(
        self, value: object, depth: int, render: Callable[[Any, int], JsonValue], owner: object = None
    ) -> JsonValue:
        mark = id(value if owner is None else owner)
        if mark in self._inside:
            return self.shorten("cycle", _CYCLE)
        if depth >= self._depth:
            return self.shorten("depth")
        self._inside.add(mark)
        try:
            return render(value, depth + 1)
        finally:
            self._inside.discard(mark)

    def mapping(self, value: dict[object, object], depth: int) -> dict[str, JsonValue]:
        size = len(value)
        pairs: list[tuple[object, object]] = _first(value, self._width)
        shown: dict[str, JsonValue] = {}
        for key, item in pairs:
            verdict, name = self.key(key)
            while name in shown:
                name += "'"
            shown[name] = self.under(verdict, item, depth)
        if size > len(pairs):
            shown["<more>"] = size - len(pairs)
            self.shorten("width")
        return shown

    def key(self, key: object) -> tuple[int, str]:
        """Return whether *key* names a secret, and the key as it may be shown."""
        if type(key) is str:
            text = key
        elif type(key) is bytes:
            text = _bytes_text(key)
        elif key is None or type(key) in {bool, int, float}:
            text = str(key)
        else:
            rendered = self.value(key, self._depth)
            return _PLAIN, rendered if type(rendered) is str else str(rendered)
        self._room -= len(text)
        keys = self.plan.keys
        known = keys.get(text)
        if known is None:
            masks = sum(self.masked.values())
            shown = self.masked_text(text[: 256 + MAX_SECRET_CHARS], 256)
            known = self.plan.rules.verdict(text), shown
            if len(text) <= _CLEAN_CHARS and masks == sum(self.masked.values()):
                if len(keys) >= _KNOWN_KEYS:
                    keys.clear()
                    self.plan.plain_keys.clear()
                keys[text] = known
                if known == (_PLAIN, text):
                    self.plan.plain_keys.add(text)
        return known

    def under(self, verdict: int, item: object, depth: int) -> JsonValue:
        """Render what a key holds. None and truth values tell no secret, numbers none under a plural."""
        if verdict == _PLAIN or item is None or type(item) is bool:
            return self.value(item, depth)
        if verdict == _SECRET_UNLESS_NUMBER and type(item) in {int, float}:
            return self.value(item, depth)
        return self.hide("key", _KEY_MARKER)

    def _sequence(self, value: Iterable[object], depth: int) -> JsonValue:
        width = self._width
        size = len(cast("list[object]", value))
        items = list(value) if size <= width else _first(value, width)
        if size == 2 and type(items[0]) in {str, bytes} and type(value) in {tuple, list}:
            verdict, name = self.key(items[0])
            if verdict != _PLAIN:
                return [name, self.under(verdict, items[1], depth)]
        shown: list[JsonValue] = []
        secret_option = False
        for item in items:
            if secret_option:
                shown.append(self.hide("key", _KEY_MARKER))
                secret_option = False
                continue
            shown.append(self.value(item, depth))
            # ["--password", "hunter2"]
            if type(item) is str and item.startswith("-") and item[:64].replace("-", "").isalnum():
                secret_option = self.key(item)[0] == _SECRET
        if size > len(items):
            shown.append(f"<{size - len(items)} more>")
            self.shorten("width")
        return shown

    def _fields(self, value: tuple[_Kind, object], depth: int) -> JsonValue:
        kind, owner = value
        shown: dict[str, JsonValue] = {}
        if kind.way == "tuple":
            held = dict(zip((field.name for field in kind.fields), _items_of(owner), strict=False))
        else:
            held = _instance_dict(owner) or {}
        for field in kind.fields[: self._width]:
            if field.slot is not None:
                try:
                    item: object = field.slot.__get__(owner)
                except AttributeError:
                    continue
            elif field.name in held:
                item = held[field.name]
            else:
                continue
            if field.secret:
                shown[field.name] = self.hide("type", _TYPE_MARKER)
            else:
                shown[field.name] = self.under(self.key(field.name)[0], item, depth)
        if len(kind.fields) > self._width:
            shown["<more>"] = len(kind.fields) - self._width
            self.shorten("width")
        return shown


def _first(value: Any, count: int) -> list[Any]:
    """Return the first *count* items; again once if another thread changes *value* meanwhile."""
    items = value.items() if type(value) in _MAPPINGS else value
    try:
        return list(islice(items, count))
    except RuntimeError:
        return list(islice(items, count))


# --- errors -----------------------------------------------------------------

_PLAIN_ARGUMENTS: Final = frozenset({str, int, float, bool, type(None), bytes})
# Their __str__ looks at nothing but the arguments.
_PLAIN_ERRORS: Final = (BaseException, KeyError, OSError)
_args_of: Callable[[BaseException], tuple[object, ...]] = BaseException.__dict__["args"].__get__
_cause_of: Callable[[BaseException], BaseException | None] = BaseException.__dict__["__cause__"].__get__
_context_of: Callable[[BaseException], BaseException | None] = BaseException.__dict__["__context__"].__get__
_suppressed: Callable[[BaseException], bool] = BaseException.__dict__["__suppress_context__"].__get__
_traceback_of: Callable[[BaseException], TracebackType | None] = BaseException.__dict__["__traceback__"].__get__
_group_of: Callable[[BaseException], tuple[BaseException, ...]] = BaseExceptionGroup.__dict__["exceptions"].__get__


def _message(error: BaseException) -> str:
    """Return what *error* says, from its arguments: its own ``__str__`` may be anybody's code."""
    mro = _mro_of(type(error))
    args = _args_of(error)
    says = next(base for base in mro if "__str__" in _names_of(base))
    parts = [*args]
    if says is OSError:
        parts += [OSError.__dict__[name].__get__(error) for name in ("errno", "strerror", "filename", "filename2")]
    module = _module_of(says)
    ours = type(module) is str and module == "rfs.errors"
    if (ours or any(says is plain for plain in _PLAIN_ERRORS)) and all(
        type(part) in _PLAIN_ARGUMENTS for part in parts
    ):
        return str(cast("Any", says).__str__(error))
    if any(base is UnicodeError for base in mro) and len(args) == 5:
        args = (args[0], args[4])
    if any(base is BaseExceptionGroup for base in mro):
        args = args[:1]
    return ", ".join(_argument(arg) for arg in args)


def _ends(text: str) -> str:
    """
    Leave out the middle of a text that is longer than anything shown, so that what holds it need not be copied whole.

    The ends are longer by what is searched beyond a cut: no secret comes apart where they meet.
    """
    if len(text) <= _ONE_PIECE + 2 * MAX_SECRET_CHARS:
        return text
    return text[: TEXT_HEAD_BYTES + MAX_SECRET_CHARS] + text[-TEXT_TAIL_BYTES - MAX_SECRET_CHARS :]


def _argument(arg: object) -> str:
    if type(arg) is str:
        return _ends(arg)
    if type(arg) is int:
        return _int_text(arg)
    if type(arg) is bytes:
        return repr(arg[: 2 * MAX_RECORD_CHARS])
    if type(arg) in _PLAIN_ARGUMENTS:
        return repr(arg)
    return _class_marker(type(arg))


def _frames(traceback: TracebackType | None) -> list[str]:
    frames: list[tuple[str, int, str]] = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append((code.co_filename, traceback.tb_lineno, code.co_qualname))
        traceback = traceback.tb_next
    lines: list[str] = []
    left_out = len(frames) - MAX_FRAMES
    for index, (filename, number, name) in enumerate(frames):
        if left_out > 0 and MAX_FRAMES // 4 <= index < MAX_FRAMES // 4 + left_out:
            if index == MAX_FRAMES // 4:
                lines.append(f"  <{left_out} frames left out>")
            continue
        lines.append(f'  File "{filename}", line {number}, in {name}')
        source = linecache.getline(filename, number).strip()
        if source:
            lines.append(f"    {source}")
    return lines


def _stack(error: BaseException, seen: set[int]) -> list[str]:
    seen.add(id(error))
    lines: list[str] = []
    cause = _cause_of(error)
    context = None if _suppressed(error) else _context_of(error)
    for linked, sentence in (
        (cause, "The above exception was the direct cause of the following exception:"),
        (context if cause is None else None, "During handling of the above exception, another exception occurred:"),
    ):
        if linked is not None and id(linked) not in seen:
            if len(seen) < MAX_LINKED_ERRORS:
                lines += [*_stack(linked, seen), "", sentence, ""]
            else:
                lines += [f"<{_qualname_of(type(linked))} and what is behind it left out>", ""]
    lines.append("Traceback (most recent call last):")
    lines += _frames(_traceback_of(error))
    module = _module_of(type(error))
    name = _qualname_of(type(error))
    message = _ends(_message(error))
    qualified = name if module in {"builtins", "__main__"} else f"{module}.{name}"
    lines.append(f"{qualified}: {message}" if message else qualified)
    notes = (_instance_dict(error) or {}).get("__notes__")
    if type(notes) is list:
        lines += [note for note in cast("list[object]", notes)[:MAX_LINKED_ERRORS] if type(note) is str]
    if any(base is BaseExceptionGroup for base in _mro_of(type(error))):
        for number, member in enumerate(_group_of(error), 1):
            lines.append(f"  +---------------- {number} ----------------")
            if len(seen) >= MAX_LINKED_ERRORS:
                lines.append("  | <more left out>")
                break
            if id(member) not in seen:
                lines += [f"  | {line}" for line in _stack(member, seen)]
    return lines


# --- the masker -------------------------------------------------------------


class Masker:
    """
    Copies values into plain JSON without the secrets in them.

    Args:
        patterns:
            How secrets look; ``PATTERNS`` has those known by name. To switch
            one off, leave it out.
        keys: More key names that hold secrets, in any spelling.
        on_count:
            Told each mask, each cut and each fault of a pattern's check, as ``("rfs_masked_total", rule)``,
            ``("rfs_truncated_total", bound)`` and ``("rfs_hook_faults_total", "hook_error", "hook_timeout" or "reentrant")``.
            If it raises, that counts as an ``error``.

    Raises:
        MaskingError: A pattern's name or regex cannot be used.

    What records (:meth:`text`, :meth:`fields`, :meth:`value`, :meth:`error`,
    :meth:`url`, :meth:`headers`) never raises and takes no lock; what declares
    raises. All is safe from any thread.

    A value is cut at 6 levels, 64 items per container, 512 items and 16 Ki
    characters in all; a message at its first 60 and last 4 KiB, that of an
    error and its stack trace at 12 and 4 KiB each.

    >>> Masker().fields({"order_id": 7, "card": "4111 1111 1111 1111", "userPassword": "open"})
    {'order_id': 7, 'card': '[masked:card]', 'userPassword': '[masked:key]'}
    """

    def __init__(
        self,
        *,
        patterns: Iterable[Pattern] = DEFAULT_PATTERNS,
        keys: Iterable[str] = (),
        on_count: Callable[[str, str], None] | None = None,
    ) -> None:
        self.on_count = on_count
        # Ours need no breaker, and are told from others by being equal to them.
        self._patterns = tuple(
            pattern
            if pattern.accept is None or PATTERNS.get(pattern.name) == pattern
            else pattern._replace(accept=_Check(pattern.accept, self._tell_fault))
            for pattern in patterns
        )
        names: set[str] = set()
        for pattern in self._patterns:
            _check_pattern(pattern, names)
            names.add(pattern.name)
        self._rules = _KeyRules(map(_check_key, keys), frozenset())
        self._registered: set[str] = set()
        self._secrets: frozenset[str] = frozenset()  # the registered in all their forms
        # Every rule is there from the start: adding to an item that exists is
        # one step for CPython, so that counting needs no lock.
        self._masked = dict.fromkeys(
            ("type", "key", "secret", *(pattern.name for pattern in self._patterns), "error"), 0
        )
        self._declaring = Lock()
        self._plan = _Plan(self._patterns, self._rules, self._secrets)

    @property
    def masked(self) -> Mapping[str, int]:
        """How many secrets each rule has masked."""
        return MappingProxyType(self._masked)

    def register_secret(self, value: str) -> None:
        """
        Mask *value* wherever it appears, also as base64, hexadecimal, or quoted for a URL or JSON.

        Raises:
            MaskingError: It has under 6 or over 4096 characters, or is one too many (200).
        """
        if type(value) is not str or len(value) < MIN_SECRET_CHARS:
            raise MaskingError("registered secret", f"must be text of at least {MIN_SECRET_CHARS} characters")
        if len(value) > MAX_SECRET_CHARS:
            raise MaskingError("registered secret", f"must have at most {MAX_SECRET_CHARS} characters")
        with self._declaring:
            secrets = self._secrets | _secret_forms(value)
            if len(self._registered | {value}) > MAX_SECRETS:
                raise MaskingError("registered secret", f"there are {MAX_SECRETS} already")
            self._registered.add(value)
            if secrets != self._secrets:
                self._plan = _Plan(self._patterns, self._rules, secrets)
                self._secrets = secrets

    def allow_key(self, key: str) -> None:
        """
        Show what is under *key*, in any spelling, though its name says secret. Values are still searched.

        Raises:
            MaskingError: *key* has no letter or digit.
        """
        words = _words(_check_key(key))
        with self._declaring:
            rules = _KeyRules(self._rules.extra, self._rules.allowed | {words})
            self._plan = _Plan(self._patterns, rules, self._secrets)
            self._rules = rules

    def text(self, text: str) -> str:
        """
        Return *text* masked, and cut if it is long.

        What no encoder takes (lone surrogates), NUL and marks that reorder
        text on a screen become escapes; line ends stay.
        """
        try:
            plan = self._plan
            if type(text) is str:
                short = len(text) <= _CLEAN_CHARS
                if short and text in plan.clean:
                    return text
                # A character has at most four bytes.
                if len(text) <= (_ONE_PIECE if text.isascii() else _ONE_PIECE // 4) and plan.is_clean([text]):
                    if short:
                        plan.remember(text)
                    return text
            return self._long_text(plan, text, _ONE_PIECE)
        except Exception:  # noqa: BLE001 - fails closed: unmasked text must not get out
            self._count(("error",))
            return _ERROR_MARKER

    def _long_text(self, plan: _Plan, text: str, size: int) -> str:
        """Return *text* masked, of what is longer than *size* bytes the head and the last 4 KiB."""
        walk = _Walk(plan, search=True)
        if type(text) is not str:
            shown = walk.value(text, 0)
            self._settle(walk)
            return shown if type(shown) is str else msgspec.json.encode(shown).decode()
        if len(text) <= size and len(_shown(text).encode()) <= size:
            shown = walk.masked_text(text)
        else:
            head_size = size - TEXT_TAIL_BYTES
            head = _shown(text[: head_size + MAX_SECRET_CHARS])
            first = len(head.encode()[:head_size].decode("utf-8", "ignore"))
            head = walk.masked_text(head[: first + MAX_SECRET_CHARS], first)
            data = _shown(text[-TEXT_TAIL_BYTES - MAX_SECRET_CHARS :]).encode()
            start = len(data) - TEXT_TAIL_BYTES
            tail = _splice(data, plan.spans(data, plan.detect(data) or []), walk.masked, start, len(data))
            left_out = len(text) - first - len(data[start:].decode("utf-8", "ignore"))
            walk.shorten("text")
            shown = f"{head}<{left_out} characters left out>{tail}"
        self._settle(walk)
        return shown

    def fields(self, fields: Mapping[str, object]) -> dict[str, JsonValue]:
        """
        Return a copy of *fields* that any JSON encoder takes, masked.

        By exact type: NaN and the infinities as text, integers beyond 64 bits
        as text, times in ISO format, unknown objects as ``<module.Class>``.
        """
        try:
            plan = self._plan
            given: Any = fields
            if type(fields) is dict and len(given) <= MAX_WIDTH:
                # Copied first, and in one step: another thread may be adding to it.
                shown: dict[Any, Any] = given.copy()
                plain_keys = plan.plain_keys
                clean = plan.clean
                fresh: list[str] = []
                for key, value in shown.items():
                    if type(key) is not str or key not in plain_keys:
                        break
                    kind = type(value)  # pyright: ignore[reportUnknownVariableType]
                    if kind is str:
                        if len(value) > _CLEAN_CHARS:
                            break
                        if value not in clean and plan.may_match(value):
                            fresh.append(value)
                    elif kind is int or kind is float:
                        if not -_PLAIN_NUMBER < value < _PLAIN_NUMBER:
                            break
                    elif kind is not bool and value is not None:
                        break
                else:
                    if not fresh:
                        return shown
                    if plan.is_clean(fresh):
                        for value in fresh:
                            plan.remember(value)
                        return shown
            return self._walked(plan, given)
        except Exception:  # noqa: BLE001 - fails closed
            self._count(("error",))
            return {"fields": _ERROR_MARKER}

    def value(self, value: object) -> JsonValue:
        """Return *value* alone as :meth:`fields` would render it."""
        try:
            plan = self._plan
            walk = _Walk(plan, search=False)
            shown = walk.value(value, 0)
            if walk.texts and not plan.is_clean(walk.texts):
                walk = _Walk(plan, search=True)
                shown = walk.value(value, 0)
            self._settle(walk)
            return shown
        except Exception:  # noqa: BLE001 - fails closed
            self._count(("error",))
            return _ERROR_MARKER

    def _walked(self, plan: _Plan, fields: Mapping[str, object]) -> dict[str, JsonValue]:
        if type(fields) is not dict:
            fields = dict(fields)
        for search in (False, True):
            walk = _Walk(plan, search=search)
            shown = walk.record(cast("dict[object, object]", fields))
            if search or not walk.texts or plan.is_clean(walk.texts):
                break
        self._settle(walk)
        return shown

    def error(self, error: object, *, stack: bool, is_defect: bool = False) -> ErrorInfo:
        """
        Return what may be kept of *error*, an exception or any other object.

        An exception's message is made of its arguments, since its ``__str__``
        may run anything. *stack* adds the traceback with causes and groups,
        without local variables.
        """
        try:
            walk = _Walk(self._plan, search=True)
            message, trace = "", None
            if any(base is BaseException for base in _mro_of(type(error))):
                exception = cast("BaseException", error)
                message = self._error_text(_message(exception), ERROR_MESSAGE_BYTES)
                if stack:
                    trace = self._error_text("\n".join(_stack(exception, set())), ERROR_STACK_BYTES)
            elif error is not None:
                shown = walk.value(error, 0)
                if type(shown) is dict and type(shown.get("message")) is str:
                    shown = shown["message"]
                message = shown if type(shown) is str else msgspec.json.encode(shown).decode()
                self._settle(walk)
            code = self.text(error_code(error))
            return ErrorInfo(_name_of(type(error)), code, message, trace, is_expected(error), is_defect)
        except Exception:  # noqa: BLE001 - fails closed
            self._count(("error",))
            return ErrorInfo(_name_of(type(error)), "UNKNOWN", _ERROR_MARKER, None, False, is_defect)

    def _error_text(self, text: str, size: int) -> str:
        return self.text(text) if len(text) <= size // 4 else self._long_text(self._plan, text, size)

    def url(self, url: str) -> str:
        """Return *url* without its user info and without the values of parameters whose names say secret."""
        try:
            if len(url) > TEXT_HEAD_BYTES:
                return self.text(url)
            walk = _Walk(self._plan, search=True)
            shown = _masked_url(walk, _shown(url))
            self._settle(walk)
            return self.text(shown)
        except Exception:  # noqa: BLE001 - fails closed
            self._count(("error",))
            return _ERROR_MARKER

    def headers(self, headers: Iterable[tuple[str | bytes, str | bytes]]) -> list[tuple[str, JsonValue]]:
        """Return HTTP headers, or other pairs of name and value, in their order and masked by name and value."""
        try:
            walk = _Walk(self._plan, search=True)
            shown: list[tuple[str, JsonValue]] = []
            for name, value in _first(headers, MAX_WIDTH):
                verdict, text = walk.key(name)
                shown.append((text, walk.under(verdict, value, 1)))
            self._settle(walk)
            return shown
        except Exception:  # noqa: BLE001 - fails closed
            self._count(("error",))
            return [("headers", _ERROR_MARKER)]

    def _settle(self, walk: _Walk) -> None:
        for rule, count in walk.masked.items():
            self._count((rule,) * count)
        for bound, count in walk.cut.items():
            self._tell("rfs_truncated_total", bound, count)

    def _count(self, rules: Iterable[str]) -> None:
        for rule in rules:
            self._masked[rule] += 1
            self._tell("rfs_masked_total", rule, 1)

    def _tell_fault(self, reason: str) -> None:
        self._tell("rfs_hook_faults_total", reason, 1)

    def _tell(self, name: str, label: str, times: int) -> None:
        if self.on_count is not None:
            try:
                for _ in range(times):
                    self.on_count(name, label)
            except Exception:  # noqa: BLE001 - a counter of the host's must not cost the record
                self._masked["error"] += 1


def _masked_url(walk: _Walk, url: str) -> str:
    url, hash_mark, fragment = url.partition("#")
    url, question_mark, query = url.partition("?")
    scheme, slashes, rest = url.partition("//")
    if slashes:
        authority, slash, path = rest.partition("/")
        if "@" in authority:
            authority = f"{walk.hide('url', '[masked:url]')}@{authority.rpartition('@')[2]}"
        url = f"{scheme}{slashes}{authority}{slash}{path}"
    if "=" in fragment:
        fragment = _masked_query(walk, fragment)
    return f"{url}{question_mark}{_masked_query(walk, query)}{hash_mark}{fragment}"


def _masked_query(walk: _Walk, query: str) -> str:
    parts: list[str] = []
    for part in query.split("&"):
        name, equals, value = part.partition("=")
        verdict, _ = walk.key(urllib.parse.unquote_plus(name))
        if equals and verdict != _PLAIN and value:
            value = walk.hide("key", _KEY_MARKER)
        elif "%" in value or "+" in value:
            plain = urllib.parse.unquote_plus(value)
            if not walk.plan.is_clean([plain]):
                masked = walk.masked_text(plain)
                value = masked if masked != plain else value
        parts.append(f"{name}{equals}{value}")
    return "&".join(parts)


def _check_pattern(pattern: Pattern, names: set[str]) -> None:
    subject = f"pattern {pattern.name!r}"
    if not re.fullmatch("[a-z][a-z0-9_]{0,31}", pattern.name):
        raise MaskingError(subject, "a name has lower-case letters, digits and _, at most 32")
    if pattern.name in names or pattern.name in {"type", "key", "secret", "error"}:
        raise MaskingError(subject, "the name is taken")
    if _compile(pattern.regex, subject).search(b"") is not None:
        raise MaskingError(subject, "must not match empty text")


def _check_key(key: str) -> str:
    if type(key) is not str or not _words(key):
        raise MaskingError(f"key {key!r}", "must have a letter or a digit")
    return key
