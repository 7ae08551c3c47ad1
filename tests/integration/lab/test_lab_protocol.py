"""The resource manager's protocol, read raw: what every answer has, and how Azure says no."""

import json
import uuid
from collections.abc import Callable, Iterator

import httpx
import jwt
import pytest
from tests.fakes.lab import FakeLab

from isthmus.lab import private_dns

VERSION = "api-version=2024-03-01"
ZONES = "providers/Microsoft.Network/privateDnsZones"


@pytest.fixture
def lab(new_lab: Callable[..., FakeLab]) -> FakeLab:
    return new_lab(*private_dns.KINDS, virtuals=private_dns.VIRTUALS)


@pytest.fixture
def http(lab: FakeLab) -> Iterator[httpx.Client]:
    with lab.http() as client:
        yield client


@pytest.fixture
def group(lab: FakeLab, http: httpx.Client) -> str:
    path = f"/subscriptions/{lab.provider}/resourceGroups/one"
    assert http.put(f"{path}?{VERSION}", json={"location": "westeurope"}).status_code == 201
    return path


def error(answer: httpx.Response, status: int) -> tuple[str, str]:
    """The code and the message of a refusal."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    body = answer.json()["error"]
    return body["code"], body["message"]


def test_every_answer_has_azures_headers(http: httpx.Client) -> None:
    correlation, client = str(uuid.uuid4()), "my own words"
    answer = http.get(
        f"/subscriptions?{VERSION}",
        headers={
            "x-ms-correlation-request-id": correlation,
            "x-ms-client-request-id": client,
            "x-ms-return-client-request-id": "true",
        },
    )
    headers = answer.headers
    assert (headers["cache-control"], headers["pragma"], headers["expires"]) == ("no-cache", "no-cache", "-1")
    assert headers["strict-transport-security"] == "max-age=31536000; includeSubDomains"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-ms-correlation-request-id"] == correlation
    assert headers["x-ms-client-request-id"] == client
    assert uuid.UUID(headers["x-ms-request-id"])
    assert headers["x-ms-routing-request-id"].endswith(headers["x-ms-request-id"])
    assert int(headers["x-ms-ratelimit-remaining-subscription-reads"]) > 0


def test_without_a_version_nothing_is_answered(lab: FakeLab, http: httpx.Client) -> None:
    code, message = error(http.get("/subscriptions"), 400)
    assert (code, message) == (
        "MissingApiVersionParameter",
        "The api-version query parameter (?api-version=) is required for all requests.",
    )
    for malformed in ("banana", "2024-13-01", "2024-1-1", "2024-03-01-banana", "٢٠٢٤-03-01"):
        assert error(http.get("/subscriptions", params={"api-version": malformed}), 400)[0] == (
            "InvalidApiVersionParameter"
        )
    for accepted in ("2020-01-01", "2026-03-01", "2021-04-01-preview"):
        assert http.get("/subscriptions", params={"api-version": accepted}).status_code == 200


def test_versions_before_2020_are_refused_for_most_kinds(http: httpx.Client, group: str) -> None:
    assert http.get(f"{group}/{ZONES}?api-version=2018-09-01").status_code == 200
    code, message = error(http.get(f"{group}/{ZONES}?api-version=2017-09-01"), 400)
    assert code == "NoRegisteredProviderFound"
    assert "API version '2017-09-01' for type 'privateDnsZones'" in message


def test_a_token_is_required(lab: FakeLab) -> None:
    with lab.http() as client:
        del client.headers["Authorization"]
        path = f"/subscriptions/{lab.provider}/resourceGroups?{VERSION}"
        answer = client.get(path)
        assert error(answer, 401)[0] == "AuthenticationFailed"
        challenge = answer.headers["www-authenticate"]
        assert challenge.startswith(f'Bearer authorization_uri="https://login.windows.net/{lab.tenancy.tenant_id}"')
        assert 'error="invalid_token"' in challenge
        for header, code in (
            ("Basic abc", "AuthenticationFailed"),
            ("Bearer", "AuthenticationFailed"),
            ("Bearer abc", "InvalidAuthenticationToken"),
            (f"Bearer {lab.token()[:-4]}AAAA", "InvalidAuthenticationToken"),
            (f"Bearer {lab.tokens.issue('https://vault.azure.net')[0]}", "InvalidAuthenticationTokenAudience"),
            (f"Bearer {jwt.encode({'aud': lab.url}, 'k' * 32)}", "InvalidAuthenticationToken"),
        ):
            assert error(client.get(path, headers={"Authorization": header}), 401)[0] == code


def test_subscriptions_groups_and_resources_that_are_not_there(lab: FakeLab, http: httpx.Client, group: str) -> None:
    assert error(http.get(f"/subscriptions/nonsense/resourceGroups?{VERSION}"), 400) == (
        "InvalidSubscriptionId",
        "The provided subscription identifier 'nonsense' is malformed or invalid.",
    )
    other = uuid.uuid4()
    assert error(http.get(f"/subscriptions/{other}/resourceGroups?{VERSION}"), 404) == (
        "SubscriptionNotFound",
        f"The subscription '{other}' could not be found.",
    )
    missing = f"/subscriptions/{lab.provider}/resourceGroups/two"
    for path in (missing, f"{missing}/{ZONES}", f"{missing}/{ZONES}/a.example", f"{missing}/resources"):
        assert error(http.get(f"{path}?{VERSION}"), 404) == (
            "ResourceGroupNotFound",
            "Resource group 'two' could not be found.",
        )
    assert error(http.get(f"{group}/{ZONES}/a.example?{VERSION}"), 404) == (
        "ResourceNotFound",
        (
            "The Resource 'Microsoft.Network/privateDnsZones/a.example' under resource group 'one' was not found. For "
            "more details please go to https://aka.ms/ARMResourceNotFoundFix"
        ),
    )
    assert error(http.get(f"{group}/{ZONES}/a.example/A?{VERSION}"), 404) == (
        "ParentResourceNotFound",
        (
            "Failed to perform 'read' on resource(s) of type 'privateDnsZones/A', because the parent resource "
            f"'{group}/{ZONES}/a.example' could not be found."
        ),
    )
    refusal = http.put(f"{group}/{ZONES}/a.example/A/www?{VERSION}", json={"properties": {"ttl": 5}})
    assert error(refusal, 404)[0] == "ParentResourceNotFound"


def test_kinds_and_paths_that_do_not_exist(http: httpx.Client, group: str) -> None:
    assert error(http.get(f"{group}/providers/Microsoft.Nothing/things?{VERSION}"), 404) == (
        "InvalidResourceNamespace",
        "The resource namespace 'Microsoft.Nothing' is invalid.",
    )
    assert error(http.get(f"{group}/providers/Microsoft.Network/things/one?{VERSION}"), 404)[0] == "InvalidResourceType"
    assert error(http.get(f"/nothing/here?{VERSION}"), 404)[0] == "NotFound"
    refused = http.post(f"{group}/{ZONES}/a.example?{VERSION}", json={})
    assert error(refused, 405)[0] == "MethodNotAllowed"
    assert "PUT" in refused.headers["allow"]


def test_paths_have_no_case_and_ids_keep_theirs(lab: FakeLab, http: httpx.Client, group: str) -> None:
    shouted = f"/SUBSCRIPTIONS/{lab.provider.upper()}/RESOURCEGROUPS/ONE?API-VERSION=2024-03-01"
    answer = http.get(shouted)
    assert answer.json()["id"] == group
    again = http.put(f"/subscriptions/{lab.provider}/resourcegroups/ONE?{VERSION}", json={"location": "West Europe"})
    assert (again.status_code, again.json()["id"], again.json()["location"]) == (200, group, "westeurope")


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"x"', b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a":' * 100 + b"1" + b"}" * 100],
)
def test_bodies_that_are_no_objects(http: httpx.Client, group: str, body: bytes) -> None:
    answer = http.put(f"{group}?{VERSION}", content=body, headers={"content-type": "application/json"})
    assert error(answer, 400)[0] == "InvalidRequestContent"


def test_a_body_may_not_be_too_large(http: httpx.Client, group: str) -> None:
    body = json.dumps({"location": "westeurope", "tags": {"a": "x" * 5_000_000}})
    assert error(http.put(f"{group}?{VERSION}", content=body), 413)[0] == "RequestEntityTooLarge"


def test_locations(lab: FakeLab, http: httpx.Client, group: str) -> None:
    new = f"/subscriptions/{lab.provider}/resourceGroups/two"
    assert error(http.put(f"{new}?{VERSION}", json={}), 400) == (
        "LocationRequired",
        "The location property is required for this definition.",
    )
    code, message = error(http.put(f"{new}?{VERSION}", json={"location": "mars"}), 400)
    assert code == "LocationNotAvailableForResourceGroup"
    assert message.startswith("The provided location 'mars' is not available for resource group.")
    assert error(http.put(f"{group}?{VERSION}", json={"location": "eastus"}), 409) == (
        "InvalidResourceGroupLocation",
        "Invalid resource group location 'eastus'. The Resource group already exists in location 'westeurope'.",
    )


@pytest.mark.parametrize("name", ["ends.", "a" * 91, "ex!claims", "ampers&nd", "spa ce"])
def test_names_of_groups(lab: FakeLab, http: httpx.Client, name: str) -> None:
    path = f"/subscriptions/{lab.provider}/resourceGroups/{name}"
    assert error(http.put(f"{path}?{VERSION}", json={"location": "westeurope"}), 400)[0] == "InvalidResourceGroup"


@pytest.mark.parametrize(
    ("tags", "code"),
    [
        ({f"tag{number}": "" for number in range(51)}, "InvalidTags"),
        ({"a": "x" * 257}, "InvalidTagValueLength"),
        ({"a" * 513: ""}, "InvalidTagNameLength"),
        ({"a/b": ""}, "InvalidTagNameCharacters"),
        ({"a": 1}, "InvalidRequestContent"),
        (["a"], "InvalidRequestContent"),
        ({"a": "", "A": ""}, "InvalidTags"),
    ],
)
def test_tags_have_limits(http: httpx.Client, group: str, tags: object, code: str) -> None:
    assert error(http.put(f"{group}?{VERSION}", json={"location": "westeurope", "tags": tags}), 400)[0] == code
    assert error(http.patch(f"{group}?{VERSION}", json={"tags": tags}), 400)[0] == code


def test_groups_answer_head(lab: FakeLab, http: httpx.Client, group: str) -> None:
    assert http.head(f"{group}?{VERSION}").status_code == 204
    answer = http.head(f"/subscriptions/{lab.provider}/resourceGroups/two?{VERSION}")
    assert (answer.status_code, answer.content) == (404, b"")


def test_an_unregistered_subscription_may_not_use_a_namespace(lab: FakeLab, http: httpx.Client, group: str) -> None:
    providers = f"/subscriptions/{lab.provider}/providers/Microsoft.Network"
    left = http.post(f"{providers}/unregister?{VERSION}").json()
    assert left["registrationState"] == "Unregistering"
    assert http.get(f"{providers}?{VERSION}").json()["registrationState"] == "Unregistered"
    code, message = error(http.put(f"{group}/{ZONES}/a.example?{VERSION}", json={"location": "global"}), 409)
    assert code == "MissingSubscriptionRegistration"
    assert message.startswith("The subscription is not registered to use namespace 'Microsoft.Network'.")
    assert http.post(f"{providers}/register?{VERSION}").json()["registrationState"] == "Registering"
    assert http.put(f"{group}/{ZONES}/a.example?{VERSION}", json={"location": "global"}).status_code == 202
    refused = http.post(f"{providers}/unregister?{VERSION}")
    assert refused.status_code == 409


def test_lists_come_in_pages(lab: FakeLab, http: httpx.Client) -> None:
    names = [f"group{number:03}" for number in range(25)]
    for name in names:
        http.put(f"/subscriptions/{lab.provider}/resourceGroups/{name}?{VERSION}", json={"location": "westeurope"})
    found: list[str] = []
    link: str | None = f"/subscriptions/{lab.provider}/resourceGroups?{VERSION}&$top=10"
    sizes = []
    while link:
        page = http.get(link).json()
        sizes.append(len(page["value"]))
        found += [one["name"] for one in page["value"]]
        link = page.get("nextLink")
        assert link is None or link.startswith(f"{lab.url}/subscriptions/")
    assert sizes == [10, 10, 5]
    assert found == names
    for wrong in ("$top=0", "$top=x", "$top=-1", "$skiptoken=nonsense", "$skiptoken=W10="):
        assert http.get(f"/subscriptions/{lab.provider}/resourceGroups?{VERSION}&{wrong}").status_code == 400


def test_a_page_goes_on_where_the_last_one_ended_whatever_was_deleted(lab: FakeLab, http: httpx.Client) -> None:
    groups = f"/subscriptions/{lab.provider}/resourceGroups"
    for name in "abcd":
        http.put(f"{groups}/{name}?{VERSION}", json={"location": "westeurope"})
    first = http.get(f"{groups}?{VERSION}&$top=2").json()
    http.delete(f"{groups}/a?{VERSION}")
    rest = http.get(first["nextLink"]).json()
    assert [one["name"] for one in rest["value"]] == ["c", "d"]


def test_filters_of_the_list_of_resources(lab: FakeLab, http: httpx.Client, group: str) -> None:
    for name, tags in (("a.example", {"team": "one"}), ("b.example", {"Team": "two", "x": "y"})):
        http.put(f"{group}/{ZONES}/{name}?{VERSION}", json={"location": "global", "tags": tags})
    resources = f"/subscriptions/{lab.provider}/resources?{VERSION}&$filter="

    def names(condition: str) -> list[str]:
        return [one["name"] for one in http.get(resources + condition).json()["value"]]

    both = ["a.example", "b.example"]
    assert names("resourceType eq 'microsoft.network/PRIVATEDNSZONES'") == both
    assert names("resourceGroup eq 'ONE' and name eq 'b.example'") == ["b.example"]
    assert names("tagName eq 'team'") == both
    assert names("tagName eq 'team' and tagValue eq 'two'") == ["b.example"]
    assert names("tagName eq 'x' and tagValue eq 'two'") == []
    assert names("substringof('b.ex', name)") == ["b.example"]
    assert names("name eq 'a.example' or name eq 'b.example'") == both
    assert names("name ne 'a.example'") == ["b.example"]
    assert names("resourceType eq 'Microsoft.Network/virtualNetworks'") == []
    for wrong in ("nonsense", "name eq", "name eq 'a' and", "name gt 'a'", "(((", "name eq 'a"):
        assert error(http.get(resources + wrong), 400)[0] == "InvalidFilterInQueryString"


def test_the_cloud_describes_itself(lab: FakeLab) -> None:
    with lab.http() as client:
        del client.headers["Authorization"]
        old = client.get("/metadata/endpoints?api-version=2015-01-01").json()
        listed = client.get("/metadata/endpoints?api-version=2020-06-01").json()
        new = client.get("/metadata/endpoints?api-version=2022-09-01").json()
    assert old["authentication"]["audiences"][0] == lab.url
    assert listed == [new]
    assert new["resourceManager"] == lab.url
    assert new["authentication"]["tenant"] == lab.tenancy.tenant_id
