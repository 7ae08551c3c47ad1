"""The logs of triggers: one file for each, and few of them open.

Airflow keeps the file of every running trigger open, buffered, and begins it anew when the triggerer starts again. Here
10,000 triggers cost no more descriptors than a few, and what was written before a restart stays.
"""

from collections import OrderedDict
from pathlib import Path
from typing import BinaryIO, Final

OPEN_FILES: Final = 64


class OpenFiles:
    """The files that were written last."""

    def __init__(self, limit: int = OPEN_FILES) -> None:
        self._limit = limit
        self._open: OrderedDict[str, BinaryIO] = OrderedDict()

    def append(self, path: str, data: bytes) -> None:
        """Write at the end of ``path``, at once."""
        file = self._open.pop(path, None) or Path(path).open("ab", buffering=0)  # noqa: SIM115 - closed below, or by close
        self._open[path] = file
        while len(self._open) > self._limit:
            self._open.popitem(last=False)[1].close()
        file.write(data)

    def close(self, path: str) -> None:
        """Nothing more comes for ``path``."""
        if (file := self._open.pop(path, None)) is not None:
            file.close()


class Trail:
    """As much of a binary file as structlog's ``BytesLogger`` and Airflow's upload look at."""

    def __init__(self, path: str, files: OpenFiles) -> None:
        #: Where the file is.
        self.name = path
        self._files = files

    def write(self, data: bytes) -> int:
        """Append."""
        self._files.append(self.name, data)
        return len(data)

    def flush(self) -> None:
        """Nothing is held back."""
