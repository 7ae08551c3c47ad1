"""The tenant's token endpoint, beside the resource manager: OAuth 2.0 client credentials, and what leads there.

For clients that sign in with a client id and a secret (azure-identity's EnvironmentCredential, Terraform): the
authority host is the resource manager's own address. Errors have Entra's codes (AADSTS...). Both versions of the
endpoint are there.
"""

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import parse_qsl

from isthmus.lab import identity
from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page

_ANY_TENANT: Final = frozenset({"common", "organizations"})


async def issue(engine: Engine, call: Call, words: Mapping[str, str]) -> Answer:
    """``POST /TENANT/oauth2/v2.0/token`` and ``POST /TENANT/oauth2/token``."""
    tokens, given = engine.tokens, _form(call)
    tenant = words["tenant"].lower()
    if tenant not in _ANY_TENANT | {tokens.tenancy.tenant_id.lower()}:
        return _refused(400, "invalid_request", 90002, f"Tenant '{words['tenant']}' not found.")
    if given.get("grant_type") != "client_credentials":
        return _refused(400, "unsupported_grant_type", 70003, "The lab grants by client_credentials alone.")
    client_id = given.get("client_id", "")
    if client_id.lower() != tokens.tenancy.client_id.lower():
        return _refused(
            400,
            "unauthorized_client",
            700016,
            f"Application with identifier '{client_id[:100]}' was not found in the directory.",
        )
    if not tokens.client_secret or not identity.is_same(given.get("client_secret"), tokens.client_secret):
        return _refused(401, "invalid_client", 7000215, "Invalid client secret provided.")
    audience = given.get("resource") or given.get("scope", "").removesuffix("/.default")
    if not audience:
        return _refused(400, "invalid_scope", 70011, "The provided value for the input parameter 'scope' is not valid.")
    token, expires = tokens.issue(audience, client_id=client_id)
    body: dict[str, Any] = {
        "token_type": "Bearer",
        "expires_in": identity.TOKEN_SECONDS - 1,
        "ext_expires_in": identity.TOKEN_SECONDS - 1,
        "access_token": token,
    }
    if "resource" in given:
        body |= {
            "expires_in": str(identity.TOKEN_SECONDS - 1),
            "expires_on": str(expires),
            "not_before": str(expires - identity.TOKEN_SECONDS),
            "resource": audience,
        }
    return Answer(200, body, {"Cache-Control": "no-store, no-cache"})


async def configuration(engine: Engine, call: Call, _words: Mapping[str, str]) -> Answer:
    """``GET /TENANT/v2.0/.well-known/openid-configuration``."""
    tenant = engine.tokens.tenancy.tenant_id
    base = f"{call.origin}/{tenant}"
    return Answer(
        200,
        {
            "token_endpoint": f"{base}/oauth2/v2.0/token",
            "token_endpoint_auth_methods_supported": ["client_secret_post"],
            "jwks_uri": f"{base}/discovery/v2.0/keys",
            "response_modes_supported": ["query", "fragment", "form_post"],
            "subject_types_supported": ["pairwise"],
            "id_token_signing_alg_values_supported": ["RS256"],
            "response_types_supported": ["code"],
            "scopes_supported": ["openid"],
            "issuer": f"{base}/v2.0",
            "authorization_endpoint": f"{base}/oauth2/v2.0/authorize",
            "device_authorization_endpoint": f"{base}/oauth2/v2.0/devicecode",
            "tenant_region_scope": None,
            "cloud_instance_name": call.origin.partition("://")[2],
        },
    )


async def keys(engine: Engine, _call: Call, _words: Mapping[str, str]) -> Answer:
    """``GET /TENANT/discovery/v2.0/keys``: what tokens are verified with."""
    return Answer(200, {"keys": [engine.tokens.public_jwk()]})


async def instance(_engine: Engine, call: Call, _words: Mapping[str, str]) -> Answer:
    """``GET /common/discovery/instance``: this host is an authority, and stands for no other."""
    host = call.origin.partition("://")[2]
    return Answer(
        200,
        {
            "tenant_discovery_endpoint": f"{call.origin}/common/v2.0/.well-known/openid-configuration",
            "api-version": "1.1",
            "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}],
        },
    )


def _form(call: Call) -> dict[str, str]:
    try:
        return dict(parse_qsl(call.body[:65536].decode(), keep_blank_values=True, max_num_fields=50))
    except ValueError:
        return {}


def _refused(status: int, error: str, code: int, message: str) -> Answer:
    return Answer(
        status,
        {
            "error": error,
            "error_description": f"AADSTS{code}: {message}",
            "error_codes": [code],
            "timestamp": datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ"),
            "trace_id": str(uuid.uuid4()),
            "correlation_id": str(uuid.uuid4()),
        },
    )


PAGES: Final = (
    Page("POST", ("{tenant}", "oauth2", "v2.0", "token"), issue, is_open=True),
    Page("POST", ("{tenant}", "oauth2", "token"), issue, is_open=True),
    Page("GET", ("{tenant}", "v2.0", ".well-known", "openid-configuration"), configuration, is_open=True),
    Page("GET", ("{tenant}", ".well-known", "openid-configuration"), configuration, is_open=True),
    Page("GET", ("{tenant}", "discovery", "v2.0", "keys"), keys, is_open=True),
    Page("GET", ("common", "discovery", "instance"), instance, is_open=True),
)
