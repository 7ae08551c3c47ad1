"""Tokens, as Microsoft's own libraries get them."""

from collections.abc import Callable

import httpx
import jwt
import pytest
import requests
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import ClientSecretCredential, DefaultAzureCredential, ManagedIdentityCredential
from azure.mgmt.resource.resources import ResourceManagementClient
from msal import ManagedIdentityClient, SystemAssignedManagedIdentity
from tests.fakes.lab import FakeLab


@pytest.fixture
def lab(new_lab: Callable[..., FakeLab], monkeypatch: pytest.MonkeyPatch) -> FakeLab:
    lab = new_lab()
    monkeypatch.setenv("IDENTITY_ENDPOINT", lab.identity_url)
    monkeypatch.setenv("IDENTITY_HEADER", lab.identity_header)
    return lab


def groups_with(credential: object, lab: FakeLab) -> list[object]:
    client = ResourceManagementClient(
        credential,  # type: ignore[arg-type]
        lab.provider,
        base_url=lab.url,
        credential_scopes=[f"{lab.url}/.default"],
        connection_verify=str(lab.ca),
    )
    with client:
        return list(client.resource_groups.list())


@pytest.mark.parametrize("make", [ManagedIdentityCredential, DefaultAzureCredential])
def test_a_managed_identity(lab: FakeLab, make: Callable[[], ManagedIdentityCredential]) -> None:
    with make() as credential:
        assert groups_with(credential, lab) == []
        token = credential.get_token("https://management.azure.com/.default").token
    claims = jwt.decode(token, options={"verify_signature": False})
    assert claims["aud"] == "https://management.azure.com"
    assert claims["iss"] == f"https://sts.windows.net/{lab.tenancy.tenant_id}/"
    assert claims["tid"] == lab.tenancy.tenant_id
    assert claims["oid"] == claims["sub"] == lab.tenancy.principal_id
    assert claims["xms_mirid"].startswith("/subscriptions/")
    assert claims["nbf"] <= claims["iat"] < claims["exp"]


def test_msal_as_the_az_command_uses_it(lab: FakeLab) -> None:
    with requests.Session() as session:
        client = ManagedIdentityClient(SystemAssignedManagedIdentity(), http_client=session)
        found = client.acquire_token_for_client(resource=lab.url)
    assert found["token_type"] == "Bearer"
    assert lab.tokens.check(f"Bearer {found['access_token']}")["aud"] == lab.url


def test_the_endpoint_answers_as_documented(lab: FakeLab) -> None:
    secret = {"X-IDENTITY-HEADER": lab.identity_header}
    query = {"api-version": "2019-08-01", "resource": "https://management.azure.com"}
    answer = httpx.get(lab.identity_url, params=query, headers=secret)
    body = answer.json()
    assert (answer.status_code, body["resource"], body["token_type"]) == (200, query["resource"], "Bearer")
    assert isinstance(body["expires_on"], str)
    assert int(body["expires_on"]) > 0
    assert httpx.get(lab.identity_url, params=query).status_code == 401
    assert httpx.get(lab.identity_url, params=query, headers={"X-IDENTITY-HEADER": "ö".encode()}).status_code == 401
    for missing in query:
        rest = {name: value for name, value in query.items() if name != missing}
        assert httpx.get(lab.identity_url, params=rest, headers=secret).status_code == 400
    assert httpx.get(lab.identity_url, params={**query, "client_id": "x"}, headers=secret).status_code == 400
    assert httpx.post(lab.identity_url, params=query, headers=secret).status_code == 405


def secret_credential(lab: FakeLab, secret: str) -> ClientSecretCredential:
    return ClientSecretCredential(
        lab.tenancy.tenant_id,
        lab.tenancy.client_id,
        secret,
        authority=lab.url,
        disable_instance_discovery=True,
        connection_verify=str(lab.ca),
    )


def test_a_client_with_a_secret(lab: FakeLab) -> None:
    with secret_credential(lab, lab.client_secret) as credential:
        assert groups_with(credential, lab) == []
    with secret_credential(lab, "wrong") as credential, pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        groups_with(credential, lab)


def test_the_tokens_can_be_verified_by_others(lab: FakeLab) -> None:
    with httpx.Client(base_url=lab.url, verify=lab.tls()) as http:
        tenant = lab.tenancy.tenant_id
        configuration = http.get(f"/{tenant}/v2.0/.well-known/openid-configuration").json()
        assert configuration["token_endpoint"] == f"{lab.url}/{tenant}/oauth2/v2.0/token"
        keys = http.get(configuration["jwks_uri"]).json()
        form = {
            "grant_type": "client_credentials",
            "client_id": lab.tenancy.client_id,
            "client_secret": lab.client_secret,
            "resource": "https://management.azure.com/",
        }
        old = http.post(f"/{tenant}/oauth2/token", data=form).json()
        assert http.post(f"/{tenant}/oauth2/token", data={**form, "grant_type": "password"}).status_code == 400
        assert http.post("/elsewhere/oauth2/token", data=form).json()["error_codes"] == [90002]
    assert (old["resource"], old["token_type"]) == ("https://management.azure.com/", "Bearer")
    key = jwt.PyJWKSet.from_dict(keys)["lab"]
    claims = jwt.decode(old["access_token"], key.key, algorithms=["RS256"], audience="https://management.azure.com/")
    assert claims["appid"] == lab.tenancy.client_id
