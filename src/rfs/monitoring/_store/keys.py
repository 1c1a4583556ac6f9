"""
Keys: what the frames of record chunks are encrypted with, and how keys are changed while the service runs.

A file of keys has one key a line, ``<key id> <32 bytes in base64>``; empty lines and those that begin with ``#`` say nothing. The first
key is for what is written from now on, all are for reading. So a new key is put on a line above the others, and an old one may go when
nothing is encrypted with it any more.

Of each key two others are made (HKDF with SHA-256), so that none serves two purposes: one for AES-256-GCM, with a random nonce for each
frame, and for each chunk one for the hashes of ids and operations (keyed BLAKE2b), by which records are found: without the key nobody
can tell whether an id is in a chunk, nor that two chunks have the same one. A key is good for 2³² frames.

The package ``cryptography`` is imported when a key is used first.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from importlib import import_module
from pathlib import Path
from string import ascii_letters, digits
from time import monotonic

from rfs.errors import StoreError

KEYS_VARIABLE = "RFS_STORE_KEYS"
if os.environ.get(KEYS_VARIABLE):  # now: a child that is forked while a thread imports waits for that import for ever
    for _module in ("exceptions", *(f"hazmat.primitives.{one}" for one in ("ciphers.aead", "hashes", "kdf.hkdf"))):
        with suppress(ImportError):  # `KeyRing` says what is missing
            import_module(f"cryptography.{_module}")
KEY_BYTES = 32
SEALED_BYTES = 12 + 16  # a nonce before and a tag behind it: by so much is what is encrypted longer

_NONCE_BYTES = 12
_LOOK_SECONDS = 0.5  # from one look at the file to the next
_ID_CHARACTERS = frozenset(ascii_letters + digits + "-_.")
_MOST_BYTES = 1 << 20  # of a file of keys


class UndecryptableError(ValueError):
    """What should be decrypted is not what was encrypted with this key, for this place."""


class Key:
    """One key. Safe from any thread."""

    def __init__(self, identity: str, secret: bytes) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self.id = identity
        self._secret = secret
        self._cipher = AESGCM(_derived(secret, b"rfs chunk frames"))

    def encrypt(self, content: bytes, about: bytes) -> bytes:
        """*content*, unreadable and longer by `SEALED_BYTES`; *about* is not in it and has to be handed in again."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, about)

    def decrypt(self, stored: bytes, about: bytes) -> bytes:
        """
        What `encrypt` was given.

        Raises:
            UndecryptableError: *stored* or *about* differs by a bit, or it was another key.
        """
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], about)
        except (InvalidTag, ValueError) as error:
            raise UndecryptableError(f"cannot be decrypted with key {self.id!r}") from error

    def hasher(self, chunk: int) -> Callable[[bytes], int]:
        """What makes 32 bits of an id or an operation, for the chunk with that id alone."""
        key = _derived(self._secret, b"rfs chunk hashes" + chunk.to_bytes(8, "little"))

        def hashed(text: bytes) -> int:
            return int.from_bytes(blake2b(text, digest_size=4, key=key).digest(), "little")

        return hashed


class KeyRing:
    """
    The keys of a store, as they are now: a file that has changed is read again within a second.

    Args:
        source: A file of keys, or the keys themselves as pairs of id and 32 bytes.

    Raises:
        StoreError: The file cannot be read (``K101``), others may read it (``K102``), a line of it is no key or there is none at all
            (``K103``), or the package ``cryptography`` is not there (``K105``).

    Safe from any thread. A file that is in order when the ring is made, and later is not, changes nothing: the keys that were read last
    are used, and ``fault`` says what is wrong with it, code and text; else that is None.
    """

    def __init__(self, source: Path | Iterable[tuple[str, bytes]], *, clock: Callable[[], float] = monotonic) -> None:
        self.fault: tuple[str, str] | None = None
        self._clock = clock
        self._looked = clock()
        # One tuple, so that of two threads that read at once the later one leaves keys that belong to what it saw.
        if isinstance(source, Path):
            self._path: Path | None = source
            self._known = _identify(source), _keys(_read(source), str(source))
        else:
            self._path = None
            self._known = (), _keys(source, "the keys handed in")

    @classmethod
    def of_environment(cls) -> KeyRing | None:
        """The ring that ``RFS_STORE_KEYS`` names; None if it names none. Raises what making one raises."""
        path = os.environ.get(KEYS_VARIABLE, "")
        return cls(Path(path)) if path else None

    @property
    def first(self) -> Key:
        """The key for what is written now."""
        return next(iter(self._now().values()))

    def get(self, identity: str) -> Key | None:
        """The key of that id; None if it is not at hand."""
        return self._now().get(identity)

    def _now(self) -> dict[str, Key]:
        """The keys, of the file as it is now."""
        seen, keys = self._known
        if self._path is None or self._clock() - self._looked < _LOOK_SECONDS:
            return keys
        self._looked = self._clock()
        found = _identify(self._path)
        if found != seen:
            try:
                keys = _keys(_read(self._path), str(self._path))
                self.fault = None
            except StoreError as error:
                self.fault = error.code, f"{error}; the keys that were read before are used"
            self._known = found, keys
        return keys


def _identify(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size


def _read(path: Path) -> list[tuple[str, bytes]]:
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise StoreError(str(path), f"its keys cannot be read: {error.strerror}", "K101") from error
    if mode & 0o077:
        raise StoreError(str(path), f"holds keys and has mode {mode:04o}, so others may use them; chmod 600 it", "K102")
    pairs: list[tuple[str, bytes]] = []
    for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            identity, secret = words
            pairs.append((identity, b64decode(secret, validate=True)))
        except (ValueError, Base64Error):  # what is there is never shown: it may be half a key
            fault = f"line {number} is no key; it takes an id, a space, and {KEY_BYTES} bytes in base64"
            raise StoreError(str(path), fault, "K103") from None
    return pairs


def _keys(pairs: Iterable[tuple[str, bytes]], said: str) -> dict[str, Key]:
    keys: dict[str, Key] = {}
    for identity, secret in pairs:
        if not 0 < len(identity) <= 64 or not _ID_CHARACTERS.issuperset(identity):
            fault = "an id of a key takes 1 to 64 letters, digits, '-', '_' and '.'"
        elif len(secret) != KEY_BYTES:
            fault = f"key {identity!r} has {len(secret)} bytes, not {KEY_BYTES}"
        elif identity in keys:
            fault = f"there are two keys with id {identity!r}"
        else:
            try:
                keys[identity] = Key(identity, secret)
            except ImportError as error:
                fault = "encryption needs an optional package: pip install 'rfs[crypto]'"
                raise StoreError(said, fault, "K105") from error
            continue
        raise StoreError(said, fault, "K103")
    if not keys:
        raise StoreError(said, "there is no key in it", "K103")
    return keys


def _derived(secret: bytes, purpose: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(SHA256(), KEY_BYTES, salt=None, info=purpose).derive(secret)
