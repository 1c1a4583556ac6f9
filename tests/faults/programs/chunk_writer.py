"""
Writes chunks until it is killed, going on where the last one was: ``chunk_writer DIRECTORY WITNESS``.

After each `add` that has returned, its number goes to the witness pipe. Every ninth is followed by sealing the chunk.
"""

from __future__ import annotations

import os
import sys
from itertools import count
from pathlib import Path
from struct import Struct

from rfs.monitoring._capture.segments import Run
from rfs.monitoring._store.chunks import SEALED_SUFFIX, ChunkReader, ChunkWriter, Imported, chunk_files
from tests.faults.processes import names_in
from tests.monitoring.chunks import opened, record, run_of

ADDED = Struct("<I")  # written whole, being shorter than PIPE_BUF
RECORDS = 300


def runs_of_round(number: int) -> list[Run]:
    """What is added in that round, the same in every process."""
    first = number * RECORDS
    made = [record(first + each, message="x" * (each * number % 2_000)) for each in range(RECORDS)]
    return [run_of(made[:100], source=f"{number}.segment"), run_of(made[100:], source=f"{number}.segment", sequence=2)]


def main(path: Path, witness: int) -> None:
    """Write until killed."""
    with opened(path) as directory:
        chunks = [ChunkReader(directory, name) for name in chunk_files(names_in(path))]
        held = sum(chunk.records for chunk in chunks)
        sealed = sum(chunk.file.endswith(SEALED_SUFFIX) for chunk in chunks)
        first = held // RECORDS
        # The witness tells of a round once: what was added before the kill, and not told, is told now.
        imported = Imported(chunks, {f"{first - 1}.segment", f"{first}.segment"})
        writer = ChunkWriter(directory, f"{sealed:06}", 5)
        for number in count(first):
            writer.add([imported.rest(run) for run in runs_of_round(number)])
            os.write(witness, ADDED.pack(number))
            if number % 9 == 8:
                writer.sync()
                writer.seal()
                writer.reader.close()
                sealed += 1
                writer = ChunkWriter(directory, f"{sealed:06}", 5)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
