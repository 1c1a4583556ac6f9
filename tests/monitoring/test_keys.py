from __future__ import annotations

import os
import subprocess
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfs.errors import StoreError
from rfs.monitoring._capture.segments import HAS_ERROR, Frame
from rfs.monitoring._store.chunks import OPEN_SUFFIX, SEALED_SUFFIX, ChunkReader, ChunkWriter, Imported, newest
from rfs.monitoring._store.keys import KEY_BYTES, KEYS_VARIABLE, Key, KeyRing, UndecryptableError
from rfs.testing.virtual_time import VirtualTime
from tests.monitoring.chunks import SOURCE, by_time, opened, record, run_of
from tests.monitoring.test_chunks import levels, records, strangers, texts

OPEN, SEALED = "c" + OPEN_SUFFIX, "c" + SEALED_SUFFIX
OLD, NEW = ("old", b"o" * KEY_BYTES), ("new", b"n" * KEY_BYTES)


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    with opened(tmp_path) as opened_directory:
        yield opened_directory


def write(
    directory: int, *parts: tuple[Sequence[Frame], KeyRing | None], name: str = "c", seal: bool = True
) -> list[Frame]:
    """Add to a chunk with one ring of keys after the other; return what should be in there."""
    first = 0
    for frames, keys in parts:
        writer = ChunkWriter(directory, name, 5, keys)
        writer.add([run_of(frames, first=first)])
        writer.sync()
        writer.close()
        first += len(frames)
    if seal:
        writer = ChunkWriter(directory, name, 5, parts[-1][1] if parts else None)
        writer.seal()
    return by_time(frame for frames, _ in parts for frame in frames)


def read(directory: int, keys: KeyRing | None, *, file: str = SEALED) -> list[Frame]:
    return by_time(ChunkReader(directory, file, keys).read())


def line(identity: str, secret: bytes) -> str:
    return f"{identity} {b64encode(secret).decode()}\n"


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.touch(0o600)
    path.write_text("# of this year\n\n" + line(*OLD))
    return path


class TestKeyFile:
    def test_the_first_is_for_writing(self, key_file: Path) -> None:
        """
        The first line's key is what is written with, each other one is known by its id.
        """
        key_file.write_text(line(*NEW) + line(*OLD))

        ring = KeyRing(key_file)

        assert ring.first.id == "new"
        assert [one and one.id for one in (ring.get("new"), ring.get("old"), ring.get("older"))] == ["new", "old", None]

    def test_a_new_line_counts_within_a_second(self, key_file: Path, clock: VirtualTime) -> None:
        """
        A key that is put above the others is used a second later; so is a file that has taken the other one's place.
        """
        ring = KeyRing(key_file, clock=clock.monotonic)
        key_file.write_text(line(*NEW) + line(*OLD))
        at_once = ring.first.id

        clock.advance(1)
        second = ring.first.id
        other = key_file.with_name("other")
        other.touch(0o600)
        other.write_text(line("newest", b"x" * KEY_BYTES))
        other.rename(key_file)
        clock.advance(1)

        assert (at_once, second, ring.first.id, ring.get("old")) == ("old", "new", "newest", None)

    @pytest.mark.parametrize(
        ("harm", "code", "said"),
        [
            (lambda path: path.unlink(), "K101", "its keys cannot be read: No such file or directory"),
            (
                lambda path: path.chmod(0o640),
                "K102",
                "holds keys and has mode 0640, so others may use them; chmod 600 it",
            ),
            (lambda path: path.write_text("# nothing\n"), "K103", "there is no key in it"),
            (
                lambda path: path.write_text("\nold c2VjcmV0 more\n"),
                "K103",
                "line 2 is no key; it takes an id, a space, and 32 bytes in base64",
            ),
            (lambda path: path.write_text("old c2VjcmV0?\n"), "K103", "line 1 is no key; it takes an id"),
            (lambda path: path.write_text(line("old", b"short")), "K103", "key 'old' has 5 bytes, not 32"),
            (lambda path: path.write_text(line(*OLD) * 2), "K103", "there are two keys with id 'old'"),
            (lambda path: path.write_text(line("ö", OLD[1])), "K103", "an id of a key takes 1 to 64 letters, digits"),
        ],
    )
    def test_what_is_wrong_is_said(
        self, key_file: Path, clock: VirtualTime, harm: Callable[[Path], object], code: str, said: str
    ) -> None:
        """
        A ring is not made of a file that is not in order; one that was made goes on with the keys that it had, and tells.
        """
        ring = KeyRing(key_file, clock=clock.monotonic)
        harm(key_file)
        clock.advance(1)

        with pytest.raises(StoreError) as caught:
            KeyRing(key_file)

        assert (caught.value.code, ring.first.id) == (code, "old")
        assert f"store {key_file}: {said}" in str(caught.value)
        assert "c2Vj" not in str(caught.value)
        assert ring.fault is not None
        assert ring.fault[0] == code
        assert ring.fault[1] == f"{caught.value}; the keys that were read before are used"

    def test_in_order_again(self, key_file: Path, clock: VirtualTime) -> None:
        """
        When the file has been mended, its keys are used and nothing is wrong any more.
        """
        ring = KeyRing(key_file, clock=clock.monotonic)
        key_file.write_text("half a li")
        clock.advance(1)
        before = ring.first.id, ring.fault is None

        key_file.write_text(line(*NEW))
        clock.advance(1)

        assert before == ("old", False)
        assert (ring.first.id, ring.fault) == ("new", None)

    def test_of_the_environment(self, key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        ``RFS_STORE_KEYS`` names the file; without it there are no keys.
        """
        monkeypatch.delenv(KEYS_VARIABLE, raising=False)
        without = KeyRing.of_environment()
        assert without is None

        monkeypatch.setenv(KEYS_VARIABLE, str(key_file))
        ring = KeyRing.of_environment()

        assert ring is not None
        assert ring.first.id == "old"

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """
        Where ``cryptography`` is not installed, the error names the extra.
        """
        monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)

        with pytest.raises(StoreError, match=r"needs an optional package: pip install 'rfs\[crypto\]'") as caught:
            KeyRing([OLD])

        assert caught.value.code == "K105"

    def test_not_imported_without_keys(self) -> None:
        """
        Who has no keys pays nothing for them.
        """
        program = (
            "import sys, rfs.monitoring, rfs.monitoring._store.chunks, rfs.monitoring._store.keys\n"
            "assert rfs.monitoring._store.keys.KeyRing.of_environment() is None\n"
            "print(any(name.partition('.')[0] == 'cryptography' for name in sys.modules))"
        )
        environment = {name: value for name, value in os.environ.items() if name != KEYS_VARIABLE}

        said = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True).stdout

        assert said == b"False\n"


class TestKey:
    @given(st.binary(), st.binary(), st.data())
    def test_a_changed_bit_is_noticed(self, content: bytes, about: bytes, data: st.DataObject) -> None:
        """
        What was encrypted comes back; with any bit of it or of what it is about changed, or another key, nothing does.
        """
        key = Key(*OLD)
        stored = key.encrypt(content, about)
        whole = bytearray(stored + about)
        place = data.draw(st.integers(0, 8 * len(whole) - 1))
        whole[place >> 3] ^= 1 << (place & 7)

        assert key.decrypt(stored, about) == content
        with pytest.raises(UndecryptableError, match="with key 'old'"):
            key.decrypt(bytes(whole[: len(stored)]), bytes(whole[len(stored) :]))
        with pytest.raises(UndecryptableError):
            Key(*NEW).decrypt(stored, about)

    def test_never_the_same(self) -> None:
        """
        The same content is never stored in the same way twice.
        """
        key = Key(*OLD)

        assert len({key.encrypt(b"content", b"") for _ in range(1_000)}) == 1_000

    def test_hashes_are_of_a_key_and_a_chunk(self) -> None:
        """
        An id's hash is the same in one chunk, and another one in other chunks and with other keys.
        """
        hashes = [Key(*pair).hasher(chunk)(b"order-1") for pair, chunk in ((OLD, 1), (OLD, 1), (OLD, 2), (NEW, 1))]

        assert hashes[0] == hashes[1]
        assert len(set(hashes)) == 3


class TestEncrypted:
    @pytest.mark.parametrize("seal", [False, True])
    @given(
        st.lists(
            st.tuples(st.lists(st.one_of(records, strangers), max_size=8), st.sampled_from([None, OLD, NEW])),
            max_size=4,
        )
    )
    def test_comes_back(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        seal: bool,
        parts: list[tuple[list[Frame], tuple[str, bytes] | None]],
    ) -> None:
        """
        Every record comes back as it was handed in, whichever of the keys, or none, it was written with.
        """
        with opened(tmp_path_factory.mktemp("c")) as directory:
            rings = [(frames, None if pair is None else KeyRing([pair])) for frames, pair in parts]
            expected = write(directory, *rings, seal=seal)
            if not parts:
                return

            found = read(directory, KeyRing([NEW, OLD]), file=SEALED if seal else OPEN)

            assert Counter(map(repr, found)) == Counter(map(repr, expected))

    @pytest.mark.parametrize("seal", [False, True])
    @given(st.data())
    def test_finding_equals_that_in_clear(
        self, tmp_path_factory: pytest.TempPathFactory, seal: bool, data: st.DataObject
    ) -> None:
        """
        Whatever is asked, chunks with keys answer as chunks without.
        """
        parts = data.draw(
            st.lists(
                st.tuples(st.lists(records, max_size=8), st.sampled_from([None, OLD, NEW])), min_size=1, max_size=4
            )
        )
        asked: dict[str, Any] = data.draw(
            st.fixed_dictionaries(
                {"limit": st.integers(1, 5)},
                optional={
                    "correlation_id": texts,
                    "operation": texts,
                    "min_level": levels,
                    "flags": st.just(HAS_ERROR),
                },
            )
        )
        file = SEALED if seal else OPEN
        with opened(tmp_path_factory.mktemp("c")) as directory, opened(tmp_path_factory.mktemp("d")) as other:
            write(directory, *((frames, pair and KeyRing([pair])) for frames, pair in parts), seal=seal)
            write(other, *((frames, None) for frames, _ in parts), seal=seal)

            found = newest([ChunkReader(directory, file, KeyRing([NEW, OLD]))], **asked)
            expected = newest([ChunkReader(other, file)], **asked)

            assert [one.frame for one in found] == [one.frame for one in expected]

    def test_nothing_of_it_is_in_the_file(self, directory: int, tmp_path: Path) -> None:
        """
        Neither a record's text, nor its id or operation, nor their plain hashes can be found in the file.
        """
        frames = [record(number, identity="person-7", operation="cure", message="is ill") for number in range(3)]
        write(directory, (frames, None), name="clear", seal=False)
        write(directory, (frames, KeyRing([OLD])))
        clear = ChunkReader(directory, "clear" + OPEN_SUFFIX)
        reader = ChunkReader(directory, SEALED, KeyRing([OLD]))

        notes = reader.frames[0].notes
        content = (tmp_path / SEALED).read_bytes()

        assert notes.key == "old"
        assert notes.operations != clear.frames[0].notes.operations
        assert clear.hashes(clear.frames[0]) != reader.hashes(reader.frames[0])
        assert not any(word in content for word in (b"person-7", b"cure", b"is ill", b"shop"))
        assert len(newest([reader], limit=9, correlation_id="person-7")) == 3

    def test_what_is_in_clear_cannot_be_changed(self, directory: int, tmp_path: Path) -> None:
        """
        A frame whose notes were forged, with a right CRC, is damage.
        """
        ring = KeyRing([OLD])
        write(directory, ([record(1)], ring), seal=False)
        whole = ChunkReader(directory, OPEN, ring)
        entry = whole.frames[0]
        stored = (tmp_path / OPEN).read_bytes()
        (tmp_path / OPEN).write_bytes(stored[: entry.at] + forged(stored[entry.at :]))

        reader = ChunkReader(directory, OPEN, ring)

        assert len(reader.frames) == 1  # its CRC is right
        assert list(reader.read()) == []
        assert [one.fault for one in reader.damage] == ["are damaged: cannot be decrypted with key 'old'"]
        assert reader.locked == []


class TestKeyIsMissing:
    @pytest.mark.parametrize("seal", [False, True])
    @pytest.mark.parametrize("keys", [None, KeyRing([NEW])])
    def test_those_records_are_left_out(self, directory: int, seal: bool, keys: KeyRing | None) -> None:
        """
        What has another key, or none, is there; how many records are not is said once, whatever is asked and how often.
        """
        ring = KeyRing([OLD])
        write(directory, ([record(1), record(2)], ring), ([record(3)], None), ([record(4)], ring), seal=seal)
        reader = ChunkReader(directory, SEALED if seal else OPEN, keys)

        for _ in range(2):
            assert [one.frame.time_ns for one in newest([reader], limit=9)] == [3]
            assert [one.frame.time_ns for one in newest([reader], limit=9, correlation_id="id")] == [3]
            assert [one.frame.time_ns for one in newest([reader], limit=9, operation="op")] == [3]
            assert newest([reader], limit=9, correlation_id="none") == []

        assert reader.records == 4
        assert reader.damage == reader.locked
        assert [(one.records, one.fault) for one in reader.damage] == [
            (3, "are encrypted with key 'old', which is not at hand")
        ]

    @pytest.mark.parametrize("seal", [False, True])
    def test_back_again(self, directory: int, key_file: Path, clock: VirtualTime, seal: bool) -> None:
        """
        When the key comes back, so do its records, also those of a chunk that was sealed without it; nothing is damaged.
        """
        old = [record(1, identity="a"), record(2, identity="b")]
        write(directory, (old, KeyRing([OLD])), ([record(3, identity="a")], KeyRing([NEW])), seal=seal)
        key_file.write_text(line(*NEW))
        ring = KeyRing(key_file, clock=clock.monotonic)
        reader = ChunkReader(directory, SEALED if seal else OPEN, ring)
        assert [one.frame.time_ns for one in newest([reader], limit=9, correlation_id="a")] == [3]
        assert reader.locked

        key_file.write_text(line(*NEW) + line(*OLD))
        clock.advance(1)

        assert [one.frame.time_ns for one in newest([reader], limit=9, correlation_id="a")] == [3, 1]
        assert reader.damage == []

    def test_it_was_imported_all_the_same(self, directory: int) -> None:
        """
        A leader without the key knows what is in the frame already, and does not import it again.
        """
        write(directory, ([record(1), record(2)], KeyRing([OLD])), seal=False)

        rest = Imported([ChunkReader(directory, OPEN)], [SOURCE]).rest(run_of([record(1), record(2), record(3)]))

        assert [frame.time_ns for frame in rest.frames] == [3]


def forged(frame: bytes) -> bytes:
    """*frame* with another level in its notes, and the CRC that it should have then."""
    changed = frame.replace(b"\xc4\x01\x14", b"\xc4\x01\x32", 1)  # one byte: level 20
    assert changed != frame
    crc = crc32(changed[16:], crc32(changed[4:12]))
    return changed[:12] + crc.to_bytes(4, "little") + changed[16:]
