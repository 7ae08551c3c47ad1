"""One file of authorities for clients of the lab: those that the machine trusts, and the lab's own.

``SSL_CERT_FILE`` and ``REQUESTS_CA_BUNDLE`` replace what a program trusts, so the lab's certificate alone would break
every other HTTPS call of the shell that evaluates ``isthmus lab env``.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import certifi

#: What tells other programs of authorities, the most particular first.
_VARIABLES: Final = ("REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")
_DEBIAN: Final = Path("/etc/ssl/certs/ca-certificates.crt")


def write(path: Path, own: Path, environment: Mapping[str, str]) -> None:
    """Write the bundle to ``path``; ``own`` is the lab's certificate. Raises OSError."""
    others = next((content for one in _candidates(path, environment) if (content := _content(one))), "")
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(f"{others.rstrip()}\n{own.read_text(encoding='ascii')}", encoding="utf-8")
    beside.replace(path)


def _candidates(bundle: Path, environment: Mapping[str, str]) -> Iterator[Path]:
    """Where authorities may be. A shell that knows a lab names that lab's bundle, which says nothing of others."""
    for variable in _VARIABLES:
        named = environment.get(variable)
        if named and Path(named).name != bundle.name:
            yield Path(named)
    yield _DEBIAN
    default = ssl.get_default_verify_paths().openssl_cafile
    if default:
        yield Path(default)
    yield Path(certifi.where())


def _content(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    except OSError:
        return ""
