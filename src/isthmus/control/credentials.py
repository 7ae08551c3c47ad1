"""Admin tokens of deployments: files below one directory, named by the registrations.

A file is read for each call, so that a renewed token needs no restart. Invariant: whatever a registration says, nothing
outside of the directory is read, and no token is in an error.
"""

from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from isthmus.control.errors import ControlRefusedError
from isthmus.wire.control import TokenReference
from isthmus.wire.problems import Code

#: A token is one line; more than this is another file.
_MAX_BYTES: Final = 4096
_REFERENCE: Final[TypeAdapter[str]] = TypeAdapter(TokenReference)


class AdminTokens:
    """The tokens below ``directory``; None: there are none."""

    def __init__(self, directory: Path | None) -> None:
        self._directory = directory

    def read(self, reference: str) -> str:
        """The token that a registration names. Raises ControlRefusedError(ADMIN_NOT_CONFIGURED)."""
        if not reference:
            raise ControlRefusedError(Code.ADMIN_NOT_CONFIGURED, "Its registration names no admin token.")
        if self._directory is None:
            raise ControlRefusedError(
                Code.ADMIN_NOT_CONFIGURED, "The control plane was started without --admin-tokens."
            )
        file = self._file(self._directory, reference)
        try:
            with file.open("rb") as stream:
                token = stream.read(_MAX_BYTES).decode("ascii").strip()
        except OSError as error:
            raise ControlRefusedError(
                Code.ADMIN_NOT_CONFIGURED, f"The admin token {reference} cannot be read: {error.strerror}."
            ) from None
        except UnicodeDecodeError:
            token = ""
        if not token or not token.isprintable() or " " in token:
            raise ControlRefusedError(Code.ADMIN_NOT_CONFIGURED, f"The file {reference} holds no admin token.")
        return token

    def _file(self, directory: Path, reference: str) -> Path:
        """The file, wherever links below the directory lead (a mounted secret is made of such), but not out of it."""
        try:
            file = (directory / _REFERENCE.validate_python(reference)).resolve()
        except (ValidationError, OSError, RuntimeError):  # a loop of links
            file = None
        if file is None or not file.is_relative_to(directory.resolve()):
            raise ControlRefusedError(
                Code.ADMIN_NOT_CONFIGURED, f"{reference!r} is no file below the control plane's --admin-tokens."
            )
        return file
