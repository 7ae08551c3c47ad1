"""Static files, read once, under names that change with their content: browsers keep them for good."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from typing import Final

_TYPES: Final = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """A file, and what it is."""

    content: bytes
    content_type: str


class Assets:
    """The files of ``static/``. ``version`` is a digest of them all."""

    def __init__(self) -> None:
        folder = resources.files("isthmus.control.web") / "static"
        files = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.rpartition(".")[2] in _TYPES}
        self._files = {name: Asset(content, _TYPES[name.rpartition(".")[2]]) for name, content in files.items()}
        whole = hashlib.sha256()
        for name in sorted(files):
            whole.update(name.encode() + b"\0" + files[name])
        self.version = whole.hexdigest()[:12]

    def find(self, version: str, name: str) -> Asset | None:
        """A file, if it is of this version."""
        return self._files.get(name) if version == self.version else None
