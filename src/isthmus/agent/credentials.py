"""The agent token in this process: where it comes from, and what happens when the plane refuses it.

It is in this object and nowhere else: not in the environment, not in a log line, not in an error. A token from a file
is read again after a refusal, so that an operator can put a new one there while the agent runs.
"""

import os
import stat
from pathlib import Path

from isthmus.kit.errors import ConfigError


class Credential:
    """The agent token, as the value of a header."""

    __slots__ = ("_file", "_token", "version")

    def __init__(self, *, token: str | None = None, file: Path | None = None) -> None:
        """Raises ConfigError when ``file`` holds no token."""
        self._file = file
        self._token = token if file is None else _read(file)
        #: Grows when the token changes, so that a refusal of the one before is known as such.
        self.version = 0

    @property
    def token(self) -> bytes:
        """The token."""
        if self._token is None:
            raise ConfigError("there is no agent token", code="token_missing")
        return self._token.encode("ascii")

    @property
    def exposed(self) -> bool:
        """Whether others may read the token's file.

        A group with the number of this user is its own, as Debian makes them and as a pod's fsGroup is set.
        """
        if self._file is None:
            return False
        found = self._file.stat()
        own_group = 0 < found.st_gid == os.getegid() == os.geteuid()
        return bool(found.st_mode & (stat.S_IROTH if own_group else stat.S_IRGRP | stat.S_IROTH))

    def reread(self) -> bool:
        """Read the file again; whether it holds another token now. Raises ConfigError."""
        if self._file is None:
            return False
        before, self._token = self._token, _read(self._file)
        changed = self._token != before
        self.version += changed
        return changed

    def __repr__(self) -> str:
        return f"Credential(file={str(self._file)!r})" if self._file else "Credential()"


def _read(file: Path) -> str:
    hint = "Give it to the agent's user with mode 0600; isthmus token create --output writes such a file."
    try:
        token = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigError(
            f"the token file {file} cannot be read: {reason}", code="token_file_unreadable", hint=hint
        ) from None
    if not token or not token.isprintable() or " " in token:
        raise ConfigError(f"the token file {file} holds no agent token", code="token_file_malformed", hint=hint)
    return token
