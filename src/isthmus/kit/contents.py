"""The body of an HTTP request that is kept until it has been answered, so that it can be sent again.

Small bodies stay in memory; a large one goes to a file without a name, so that a few large XComs at once do not decide
how much memory the process has. Neighbours: ``serving`` fills one, ``calling`` sends one.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

#: What is kept in memory of one body. Almost every body on the Execution API is under 4 KiB.
MEMORY_BYTES: Final = 256 * 1024
CHUNK_BYTES: Final = 64 * 1024


class Content:
    """Bytes that are written once and read as often as needed."""

    __slots__ = ("_file", "_folder", "_parts", "size")

    def __init__(self, data: bytes = b"", *, folder: Path | None = None) -> None:
        self._folder = folder
        self._parts: list[bytes] = [data] if data else []
        self._file: IO[bytes] | None = None
        self.size = len(data)

    def append(self, data: bytes) -> None:
        """Add ``data`` at the end."""
        self.size += len(data)
        if self._file is None and self.size > MEMORY_BYTES:
            self._file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by close()
            self._file.writelines(self._parts)
            self._parts.clear()
        if self._file is None:
            self._parts.append(data)
        else:
            self._file.write(data)

    def chunks(self) -> Iterator[bytes]:
        """All of it, in pieces, from the beginning."""
        if self._file is None:
            yield from self._parts
            return
        self._file.seek(0)
        while chunk := self._file.read(CHUNK_BYTES):
            yield chunk

    def close(self) -> None:
        """Forget it."""
        self._parts.clear()
        if self._file is not None:
            self._file.close()
