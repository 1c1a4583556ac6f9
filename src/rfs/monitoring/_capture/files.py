"""
Live files: how every file in the live directory begins.

The first page is a header: what the file is, whose it is, and where things are in it. It is written before the file gets its
name and never changes, so a reader needs no lock. The same bytes head anonymous memory, so that there is one layout.

    magic 8 · version u32 · length u32 · crc32 u32 · MessagePack of `Header`

A reader of any version reads this page of any version; whether it can read the rest is said by ``version``.
"""

from __future__ import annotations

from struct import Struct
from zlib import crc32

import msgspec

from rfs.errors import LiveFileError

HEADER_BYTES = 4096  # one page: what follows is aligned to any word
VERSION = 1
ALIVE_MAGIC = b"RFSALIVE"
CELLS_MAGIC = b"RFSCELLS"
SEGMENT_MAGIC = b"RFSSEGMT"

_START = Struct("<8sIII")


class Header(msgspec.Struct, frozen=True, gc=False):
    """
    Whose file this is, and its layout.

    ``process`` names one life of one process and is never used again; ``number`` counts the files of its kind that the process
    has made. ``layout`` is the kind's own: names → numbers.
    """

    process: str
    pid: int
    boot: str
    service: str
    created_ns: int
    number: int
    layout: dict[str, int]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Header).decode


def pack_header(magic: bytes, header: Header) -> bytes:
    """
    Return the first page's bytes.

    Raises:
        LiveFileError: The header does not fit (the service's name is too long).
    """
    payload = _encode(header)
    if _START.size + len(payload) > HEADER_BYTES - 8:  # the page's last word is the kind's own
        raise LiveFileError(
            "header", f"takes {len(payload)} bytes; a page has {HEADER_BYTES}. Shorten the service's name"
        )
    return _START.pack(magic, VERSION, len(payload), crc32(payload)) + payload


def read_header(memory: bytes | memoryview, magic: bytes, name: str) -> Header:
    """
    Read the first page of the file *name*.

    Raises:
        LiveFileError: It is not such a file, is damaged, or was written by a newer version of the library.
    """
    if len(memory) < HEADER_BYTES:
        raise LiveFileError(name, f"has {len(memory)} bytes; even its header takes {HEADER_BYTES}")
    found, version, length, crc = _START.unpack_from(memory)
    if found != magic:
        raise LiveFileError(name, f"begins with {found!r}, not {magic!r}")
    if version > VERSION:
        raise LiveFileError(
            name,
            f"has version {version}; this library reads up to version {VERSION}. Upgrade rfs here",
            is_newer=True,
        )
    payload = bytes(memory[_START.size : _START.size + min(length, HEADER_BYTES)])
    if len(payload) != length or crc32(payload) != crc:
        raise LiveFileError(name, "has a damaged header")
    try:
        return _decode(payload)
    except msgspec.DecodeError as error:
        raise LiveFileError(name, f"has a header that cannot be read: {error}") from error
