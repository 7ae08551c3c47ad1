"""The lab's certificate authority, and the certificate of its endpoint, in a folder of the lab's state.

``ca.crt`` is what clients are given (``REQUESTS_CA_BUNDLE``, ``SSL_CERT_FILE``); it signs a certificate for loopback
addresses alone. What is there and fits stays, so that clients that know the authority go on after a restart.
"""

import os
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from isthmus.kit import certificates

NAMES: Final = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Authority:
    """The files."""

    certificate: Path
    server_certificate: Path
    server_key: Path

    def server_context(self) -> ssl.SSLContext:
        """TLS for the endpoint."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_certificate, self.server_key)
        return context


def ensure(folder: Path, names: Sequence[str] = NAMES) -> Authority:
    """The authority in ``folder``, made if it is missing, with a server certificate for ``names``. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Authority(folder / "ca.crt", folder / "server.crt", folder / "server.key")
    key = folder / "ca.key"
    if not (made.certificate.exists() and key.exists()):
        certificate, private = certificates.make_authority("Isthmus lab")
        _write(key, private, 0o600)
        _write(made.certificate, certificate, 0o644)
    authority = made.certificate.read_bytes()
    if not (
        made.server_certificate.exists()
        and made.server_key.exists()
        and certificates.fits(made.server_certificate.read_bytes(), authority, names)
    ):
        certificate, private = certificates.issue(authority, key.read_bytes(), names)
        _write(made.server_key, private, 0o600)
        _write(made.server_certificate, certificate, 0o644)
    return made


def _write(path: Path, content: bytes, mode: int) -> None:
    """Replace a file as a whole, so that a crash leaves the old one or the new one."""
    beside = path.with_name(f"{path.name}.new")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
