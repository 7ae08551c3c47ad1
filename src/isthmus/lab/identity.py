"""Tokens: a managed identity's endpoint, and the token endpoint of the tenant.

``GET IDENTITY_ENDPOINT?api-version=2019-08-01&resource=R`` with the header ``X-IDENTITY-HEADER`` is what App Service
offers (Microsoft: "How to use managed identities for App Service", REST endpoint reference); MSAL, azure-identity and
the ``az`` command speak it. Tokens are signed (RS256), and the resource manager takes no others.
"""

import functools
import hmac
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm

from isthmus.kit import serving
from isthmus.kit.errors import ConfigError
from isthmus.lab.errors import ArmError
from isthmus.lab.tenancy import Tenancy

#: How long a token is good for, and how far two clocks may be apart.
TOKEN_SECONDS: Final = 24 * 3600
_LEEWAY_SECONDS: Final = 300
_KEY_ID: Final = "lab"
#: The resource manager of Azure's public cloud, under all its names.
AZURE_AUDIENCES: Final = (
    "https://management.azure.com",
    "https://management.core.windows.net",
    "https://management.azure.com/",
    "https://management.core.windows.net/",
)


def make_key() -> bytes:
    """A new signing key, as PEM."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@functools.lru_cache(maxsize=4)
def _loaded(key: bytes) -> rsa.RSAPrivateKey:
    """The key in a PEM; loading checks it, which takes longer than all else that a request does."""
    found = serialization.load_pem_private_key(key, password=None)
    if not isinstance(found, rsa.RSAPrivateKey):
        raise ConfigError("the lab's signing key is not an RSA key", code="lab_key_invalid")
    return found


@dataclass(frozen=True, slots=True)
class Tokens:
    """Issues and checks the tenant's tokens.

    ``key`` is what ``make_key`` made; ``audiences`` are the resource manager's names besides Azure's. ``client_secret``
    is what the client id of the tenancy signs in with; empty, nobody does.
    """

    tenancy: Tenancy
    key: bytes
    audiences: Sequence[str] = ()
    client_secret: str = ""

    @property
    def issuer(self) -> str:
        """Who signs, as Azure's first version of tokens names it."""
        return f"https://sts.windows.net/{self.tenancy.tenant_id}/"

    def issue(self, audience: str, *, client_id: str | None = None) -> tuple[str, int]:
        """A token for a resource, and when it expires (seconds since 1970)."""
        now = int(time.time())
        tenancy = self.tenancy
        subscription = tenancy.subscriptions[0].id if tenancy.subscriptions else str(uuid.UUID(int=0))
        claims = {
            "aud": audience,
            "iss": self.issuer,
            "iat": now,
            "nbf": now,
            "exp": now + TOKEN_SECONDS,
            "appid": client_id or tenancy.client_id,
            "appidacr": "2",
            "idp": self.issuer,
            "idtyp": "app",
            "oid": tenancy.principal_id,
            "sub": tenancy.principal_id,
            "tid": tenancy.tenant_id,
            "uti": uuid.uuid4().hex[:22],
            "ver": "1.0",
            "xms_mirid": f"/subscriptions/{subscription}/resourcegroups/lab/providers/Microsoft.Web/sites/lab",
        }
        return jwt.encode(claims, _loaded(self.key), algorithm="RS256", headers={"kid": _KEY_ID}), now + TOKEN_SECONDS

    def check(self, authorization: str | None) -> Mapping[str, Any]:
        """The claims of the bearer token in an ``Authorization`` header. Raises errors.ArmError (401)."""
        if not authorization:
            raise self._refuse("AuthenticationFailed", "Authentication failed. The 'Authorization' header is missing.")
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise self._refuse(
                "AuthenticationFailed",
                "Authentication failed. The 'Authorization' header is provided in an invalid format.",
            )
        try:
            claims: dict[str, Any] = jwt.decode(
                token.strip(),
                _loaded(self.key).public_key(),
                algorithms=["RS256"],
                issuer=self.issuer,
                leeway=_LEEWAY_SECONDS,
                options={"verify_aud": False, "require": ["exp", "aud", "iss"]},
            )
        except jwt.ExpiredSignatureError:
            raise self._refuse("ExpiredAuthenticationToken", "The access token has expired.") from None
        except (jwt.PyJWTError, ValueError):
            raise self._refuse("InvalidAuthenticationToken", "The access token is invalid.") from None
        allowed = (*AZURE_AUDIENCES, *self.audiences)
        if str(claims["aud"]).rstrip("/") not in {one.rstrip("/") for one in allowed}:
            raise self._refuse(
                "InvalidAuthenticationTokenAudience",
                "The access token has been obtained for wrong audience or resource "
                f"'{claims['aud']}'. It should exactly match with one of the allowed audiences "
                f"'{','.join(allowed)}'.",
            )
        return claims

    def public_jwk(self) -> dict[str, Any]:
        """What tokens are verified with, as a JSON web key."""
        key = RSAAlgorithm.to_jwk(_loaded(self.key).public_key(), as_dict=True)
        return {**key, "kid": _KEY_ID, "use": "sig", "alg": "RS256"}

    def _refuse(self, code: str, message: str) -> ArmError:
        challenge = (
            f'Bearer authorization_uri="https://login.windows.net/{self.tenancy.tenant_id}", '
            f'error="invalid_token", error_description="{message}"'
        )
        return ArmError(401, code, message, headers={"WWW-Authenticate": challenge})


def is_same(given: str | None, expected: str) -> bool:
    """Whether a secret is the right one, in constant time."""
    return given is not None and hmac.compare_digest(given.encode(), expected.encode())


class Endpoint:
    """The managed identity's endpoint, on loopback, in plain HTTP as App Service has it."""

    def __init__(self, tokens: Tokens, secret: str) -> None:
        self._tokens = tokens
        self._secret = secret

    def server(self) -> serving.Server:
        """A server of it."""
        return serving.Server(self.answer, serving.ServingConfig(max_body_bytes=64 * 1024))

    async def answer(self, request: serving.Request) -> serving.Answer:
        """Answer one request: 200 with a token, 401 without the header's secret, 400 for what makes no sense."""
        query = {
            name.lower(): value
            for name, value in parse_qsl(request.target.decode("latin-1").partition("?")[2], keep_blank_values=True)
        }
        given = request.header(b"x-identity-header")
        if request.method != "GET":
            return _said(405, {"statusCode": 405, "message": "Method Not Allowed"})
        if not is_same(given.decode("latin-1") if given is not None else None, self._secret):
            return _said(401, {"statusCode": 401, "message": "The X-IDENTITY-HEADER is missing or wrong."})
        resource = query.get("resource", "")
        if query.get("api-version") not in ("2019-08-01", "2017-09-01") or not resource:
            return _said(400, {"statusCode": 400, "message": "api-version=2019-08-01 and resource are required."})
        client_id = query.get("client_id")
        if client_id is not None and client_id.lower() != self._tokens.tenancy.client_id.lower():
            return _said(400, {"statusCode": 400, "message": "No managed identity was found for the client id."})
        token, expires = self._tokens.issue(resource)
        return _said(
            200,
            {
                "access_token": token,
                "client_id": self._tokens.tenancy.client_id,
                "expires_on": str(expires),
                "not_before": str(expires - TOKEN_SECONDS),
                "resource": resource,
                "token_type": "Bearer",
            },
        )


def _said(status: int, body: Mapping[str, Any]) -> serving.Answer:
    headers = ((b"content-type", b"application/json; charset=utf-8"), (b"cache-control", b"no-store"))
    return serving.Answer(status, headers, json.dumps(body).encode())
