"""A small certificate authority of one's own, for where no other is at hand (needs the ``plane`` or ``lab`` extra).

Clients are given its certificate and trust nothing else by it. Elliptic-curve keys (P-256); the authority may sign
servers and no further authorities. What is issued is checked before it is kept: a certificate that fits stays as it is.
"""

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from isthmus.kit.errors import ConfigError

_AUTHORITY_LIFE: Final = timedelta(days=3650)
#: The longest that common TLS clients accept of a server's certificate.
_SERVER_LIFE: Final = timedelta(days=825)
_RENEW_BEFORE: Final = timedelta(days=60)
#: Machines' clocks differ.
_BACKDATED: Final = timedelta(hours=1)

_LABEL: Final = r"[a-zA-Z0-9_]([-a-zA-Z0-9_]*[a-zA-Z0-9_])?"
_DNS_NAME: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


def make_authority(name: str) -> tuple[bytes, bytes]:
    """A new authority called ``name``: its certificate and its private key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(now + _AUTHORITY_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _private_bytes(key)


def issue(authority: bytes, authority_key: bytes, names: Sequence[str]) -> tuple[bytes, bytes]:
    """A server certificate for host names and addresses: certificate and private key, as PEM. Raises ConfigError."""
    issuer = x509.load_pem_x509_certificate(authority)
    signer = serialization.load_pem_private_key(authority_key, password=None)
    if not isinstance(signer, ec.EllipticCurvePrivateKey):
        raise ConfigError("the authority's key is not an elliptic-curve key", code="tls_authority_invalid")
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        # The name that counts is the alternative one; a common name is limited to 64 characters.
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATED)
        .not_valid_after(min(now + _SERVER_LIFE, issuer.not_valid_after_utc))
        .add_extension(x509.SubjectAlternativeName(_general_names(names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, hashes.SHA256())
    )
    return certificate.public_bytes(serialization.Encoding.PEM), _private_bytes(key)


def fits(certificate: bytes, authority: bytes, names: Sequence[str]) -> bool:
    """Whether ``certificate`` is the authority's, is for exactly ``names``, and will be valid for a while."""
    try:
        held = x509.load_pem_x509_certificate(certificate)
        held.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
        alternatives = held.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except Exception:  # whatever is wrong with it, it does not fit
        return False
    return (
        set(alternatives) == set(_general_names(names)) and held.not_valid_after_utc > datetime.now(UTC) + _RENEW_BEFORE
    )


def _general_names(names: Sequence[str]) -> list[x509.GeneralName]:
    return [_general_name(name) for name in names]


def _general_name(name: str) -> x509.GeneralName:
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name.strip("[]")))
    with contextlib.suppress(UnicodeError):
        ascii_name = name.encode("idna").decode()
        if _DNS_NAME.fullmatch(ascii_name):
            return x509.DNSName(ascii_name)
    raise ConfigError(
        f"{name!r} is neither a host name nor an address",
        code="tls_name_invalid",
        hint="Give the names and addresses under which clients reach the server.",
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
