"""Asynchronous operations: what a write answers, what its operation says, and what is refused meanwhile."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
from tests.fakes.lab import FakeLab

from isthmus.lab.arm.engine import EngineConfig
from isthmus.lab.documents import Change, Document, World
from isthmus.lab.errors import ArmError
from isthmus.lab.ids import ResourceId
from isthmus.lab.kinds import Action, Caller, Json, Style
from isthmus.lab.store import Store

VERSION = "api-version=2024-05-01"


@dataclass
class Things:
    """A kind of Microsoft.Network's that says yes to almost everything."""

    name: str = "Microsoft.Network/things"
    style: Style = Style.NETWORK
    is_tracked: bool = True

    def write(self, change: Change, at: ResourceId, body: Json, before: Document | None, caller: Caller) -> Document:
        if body.get("tags") == {"refuse": "me"}:
            raise ArmError(400, "ThingRefused", "No.")
        return change.put(at, self.name, {key: body[key] for key in ("location", "tags", "properties") if key in body})

    def patch(self, change: Change, document: Document, body: Json, caller: Caller) -> Document:
        return change.put(document.id, self.name, {**document.body, "tags": body.get("tags", {})})

    def remove(self, change: Change, document: Document, caller: Caller) -> None:
        if document.body.get("tags") == {"in": "use"}:
            raise ArmError(400, "InUseThingCannotBeDeleted", "In use.")
        change.remove(document.id)

    def show(self, world: World, document: Document, caller: Caller) -> dict[str, Any]:
        return {
            "id": str(document.id),
            "name": document.id.name,
            "type": self.name,
            "etag": f'W/"{document.etag}"',
            **document.body,
            "properties": {**document.properties, "provisioningState": document.state},
        }


@dataclass
class Packets:
    """What settles changes, as a test wants."""

    seconds: float = 0.0
    failure: Exception | None = None
    followed: list[Change] = field(default_factory=list)

    async def settle(self, change: Change) -> None:
        await asyncio.sleep(self.seconds)
        if self.failure is not None:
            raise self.failure
        self.followed.append(change)


def answer_question(_world: World, scope: ResourceId, location: str | None, body: Json, _caller: Caller) -> Json:
    return {"scope": str(scope), "location": location, "asked": body}


QUESTIONS = (
    Action("asklater", answer_question, is_async=True),
    Action("asknow", answer_question),
    Action("asknow", answer_question, method="GET", kind="Microsoft.Network/things"),
)


@pytest.fixture
def packets() -> Packets:
    return Packets()


@pytest.fixture
def start(new_lab: Callable[..., FakeLab], packets: Packets) -> Callable[..., FakeLab]:
    def begin(**arguments: Any) -> FakeLab:
        parts = Things("Microsoft.Network/things/parts", is_tracked=False)
        return new_lab(Things(), parts, actions=QUESTIONS, settle=packets.settle, **arguments)

    return begin


@pytest.fixture
def lab(start: Callable[..., FakeLab]) -> FakeLab:
    return start()


@pytest.fixture
def http(lab: FakeLab) -> Iterator[httpx.Client]:
    with connected(lab) as client:
        yield client


@contextlib.contextmanager
def connected(lab: FakeLab) -> Iterator[httpx.Client]:
    with lab.http() as client:
        client.put(f"{group(lab)}?{VERSION}", json={"location": "westeurope"})
        yield client


def group(lab: FakeLab) -> str:
    return f"/subscriptions/{lab.provider}/resourceGroups/one"


def thing(lab: FakeLab, name: str = "a") -> str:
    return f"{group(lab)}/providers/Microsoft.Network/things/{name}?{VERSION}"


def state(answer: httpx.Response) -> str:
    found: str = answer.json()["properties"]["provisioningState"]
    return found


BODY = {"location": "westeurope", "properties": {}}


def test_a_write_of_microsoft_network(lab: FakeLab, http: httpx.Client, packets: Packets) -> None:
    created = http.put(thing(lab), json=BODY)
    assert (created.status_code, state(created)) == (201, "Updating")
    operation = created.headers["azure-asyncoperation"]
    prefix = f"{lab.url}/subscriptions/{lab.provider}/providers/Microsoft.Network/locations/westeurope/operations/"
    assert operation.startswith(prefix)
    assert operation.endswith("?api-version=2024-05-01")
    assert created.headers["azure-asyncnotification"] == "Enabled"
    assert int(created.headers["retry-after"]) >= 1
    assert "location" not in created.headers
    assert http.get(operation).json() == {"status": "Succeeded"}
    shown = http.get(thing(lab))
    assert state(shown) == "Succeeded"
    assert shown.headers["etag"] == shown.json()["etag"]
    assert len(packets.followed) == 2  # the group and the thing
    again = http.put(thing(lab), json=BODY)
    assert (again.status_code, again.json()["etag"] != shown.json()["etag"]) == (200, True)


def test_the_first_question_for_a_status_waits_for_the_packets(
    lab: FakeLab, http: httpx.Client, packets: Packets
) -> None:
    packets.seconds = 0.08
    operation = http.put(thing(lab), json=BODY).headers["azure-asyncoperation"]
    assert http.get(operation).json() == {"status": "Succeeded"}


def test_a_long_operation(lab: FakeLab, http: httpx.Client, packets: Packets) -> None:
    packets.seconds = 1.2
    created = http.put(thing(lab), json=BODY)
    operation = created.headers["azure-asyncoperation"]
    began = time.monotonic()
    asked = http.get(operation)
    assert time.monotonic() - began < 1
    assert (asked.status_code, asked.json(), int(asked.headers["retry-after"])) == (200, {"status": "InProgress"}, 1)
    assert state(http.get(thing(lab))) == "Updating"
    for refused in (
        http.put(thing(lab), json=BODY),
        http.patch(thing(lab), json={"tags": {}}),
        http.delete(thing(lab)),
        http.put(f"{thing(lab).partition('?')[0]}/parts/p?{VERSION}", json={"properties": {}}),
    ):
        assert refused.status_code == 409
        assert refused.json()["error"]["code"] == "AnotherOperationInProgress"
        assert refused.json()["error"]["message"] == (
            "Another operation on this or dependent resource is in progress. To retrieve status of the operation use "
            f"uri: {operation}."
        )
    assert http.put(thing(lab, "b"), json=BODY).status_code == 201
    results = operation.replace("/operations/", "/operationResults/")
    assert http.get(results).status_code == 202
    deadline = time.monotonic() + 5
    while http.get(operation).json() == {"status": "InProgress"}:
        assert time.monotonic() < deadline
    assert http.get(results).json()["name"] == "a"


def test_a_delete_of_microsoft_network(lab: FakeLab, http: httpx.Client, packets: Packets) -> None:
    assert http.delete(thing(lab)).status_code == 204
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    packets.seconds = 1.2
    deleted = http.delete(thing(lab))
    assert (deleted.status_code, deleted.content) == (202, b"")
    assert "/operations/" in deleted.headers["azure-asyncoperation"]
    assert deleted.headers["azure-asyncnotification"] == "Enabled"
    assert "/operationResults/" in deleted.headers["location"]
    assert state(http.get(thing(lab))) == "Deleting"
    assert http.get(deleted.headers["location"]).status_code == 202
    deadline = time.monotonic() + 5
    while http.get(deleted.headers["azure-asyncoperation"]).json()["status"] == "InProgress":
        assert time.monotonic() < deadline
    assert http.get(deleted.headers["location"]).status_code == 204
    assert http.get(thing(lab)).status_code == 404


def test_packets_that_do_not_follow(lab: FakeLab, http: httpx.Client, packets: Packets) -> None:
    packets.failure = ArmError(500, "InternalServerError", "The packets went astray.")
    created = http.put(thing(lab), json=BODY)
    assert created.status_code == 201
    ended = http.get(created.headers["azure-asyncoperation"])
    assert ended.status_code == 200
    assert ended.json()["status"] == "Failed"
    assert ended.json()["error"]["message"] == "The packets went astray."
    assert state(http.get(thing(lab))) == "Failed"
    packets.failure = None
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    assert state(http.get(thing(lab))) == "Succeeded"


def test_a_providers_refusal_has_details(lab: FakeLab, http: httpx.Client) -> None:
    refused = http.put(thing(lab), json={**BODY, "tags": {"refuse": "me"}})
    assert (refused.status_code, refused.json()) == (
        400,
        {"error": {"code": "ThingRefused", "message": "No.", "details": []}},
    )


def test_etags_of_microsoft_network(lab: FakeLab, http: httpx.Client) -> None:
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    etag = http.get(thing(lab)).json()["etag"]
    stale = http.put(thing(lab), json=BODY, headers={"if-match": 'W/"stale"'})
    assert stale.status_code == 412
    body = stale.json()["error"]
    assert (body["code"], body["message"]) == ("PreconditionFailed", "Precondition failed.")
    assert body["details"][0]["code"] == "PreconditionFailedEtagMismatch"
    assert f'Etag provided in if-match header W/"stale" does not match etag {etag}' in body["details"][0]["message"]
    assert http.put(thing(lab), json=BODY, headers={"if-none-match": "*"}).status_code == 412
    assert http.put(thing(lab, "b"), json=BODY, headers={"if-match": "*"}).status_code == 412
    assert http.delete(thing(lab), headers={"if-match": 'W/"stale"'}).status_code == 412
    for spell in (str, lambda one: one.removeprefix("W/"), lambda one: one.strip('W/"'), lambda one: f'W/"x", {one}'):
        answer = http.patch(thing(lab), json={"tags": {}}, headers={"if-match": spell(etag)})
        assert answer.status_code == 200
        etag = answer.json()["etag"]
    assert http.patch(thing(lab), json={"tags": {}}, headers={"if-match": "*"}).status_code == 200


def test_a_patch_of_tags_is_answered_at_once(lab: FakeLab, http: httpx.Client) -> None:
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    patched = http.patch(thing(lab), json={"tags": {"a": "b"}})
    assert (patched.status_code, patched.json()["tags"], state(patched)) == (200, {"a": "b"}, "Succeeded")
    assert "azure-asyncoperation" not in patched.headers


@pytest.mark.parametrize("name", ["-starts", "ends-", "a b", "a" * 81, "ends."])
def test_names_of_microsoft_network(lab: FakeLab, http: httpx.Client, name: str) -> None:
    refused = http.put(thing(lab, name), json=BODY)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "InvalidResourceName")


def test_a_resource_does_not_move(lab: FakeLab, http: httpx.Client) -> None:
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    refused = http.put(thing(lab), json={**BODY, "location": "eastus"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "InvalidResourceLocation")
    assert "already exists in location 'westeurope' in resource group 'one'" in refused.json()["error"]["message"]


def test_a_nested_resource_that_is_not_there(lab: FakeLab, http: httpx.Client) -> None:
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    path = f"{thing(lab).partition('?')[0]}/parts/p"
    missing = http.get(f"{path}?{VERSION}")
    assert missing.status_code == 404
    assert missing.json() == {"error": {"code": "NotFound", "message": f"Resource {path} not found.", "details": []}}


def test_questions(lab: FakeLab, http: httpx.Client) -> None:
    base = f"/subscriptions/{lab.provider}/providers/Microsoft.Network/locations/westeurope"
    now = http.post(f"{base}/askNow?{VERSION}", json={"a": 1})
    assert (now.status_code, now.json()["location"], now.json()["asked"]) == (200, "westeurope", {"a": 1})
    later = http.post(f"{base}/AskLater?{VERSION}", json={"a": 1})
    assert later.status_code == 202
    assert http.get(later.headers["azure-asyncoperation"]).json() == {"status": "Succeeded"}
    assert http.get(later.headers["location"]).json() == now.json()
    assert http.post(f"{base}/askNobody?{VERSION}", json={}).status_code == 404
    path = f"{thing(lab).partition('?')[0]}/askNow?{VERSION}"
    assert http.get(path).status_code == 404
    http.get(http.put(thing(lab), json=BODY).headers["azure-asyncoperation"])
    assert http.get(path).json()["scope"].endswith("/things/a")
    assert http.post(path, json={}).status_code == 405


def test_operations_are_remembered(
    start: Callable[..., FakeLab], packets: Packets, tmp_path: Path, authority_folder: Path
) -> None:
    packets.failure = ArmError(500, "InternalServerError", "Astray.")
    first = FakeLab(authority_folder, (Things(),), settle=packets.settle, store=Store.open(tmp_path))
    with first, connected(first) as client:
        failed = client.put(thing(first), json=BODY).headers["azure-asyncoperation"]
        assert client.get(failed).json()["status"] == "Failed"
        packets.failure = None
        deleted = client.delete(thing(first)).headers["azure-asyncoperation"]
        client.get(deleted)
    store = Store.open(tmp_path)
    second = start(store=store, tenancy=first.tenancy)
    with second.http() as client:
        assert client.get(second.url + failed.removeprefix(first.url)).json()["error"]["message"] == "Astray."
        assert client.get(second.url + deleted.removeprefix(first.url)).json() == {"status": "Succeeded"}
        unknown = f"/subscriptions/{first.provider}/providers/Microsoft.Network/locations/x/operations/y?{VERSION}"
        assert client.get(unknown).status_code == 404


def test_operations_can_be_made_slow(start: Callable[..., FakeLab]) -> None:
    lab = start(config=EngineConfig(operation_seconds=0.5, hold_seconds=0.0))
    with connected(lab) as client:
        operation = client.put(thing(lab), json=BODY).headers["azure-asyncoperation"]
        assert client.get(operation).json() == {"status": "InProgress"}
        time.sleep(0.7)  # what is tested is that real time passes
        assert client.get(operation).json() == {"status": "Succeeded"}


def test_a_group_takes_everything_along_or_nothing(lab: FakeLab, http: httpx.Client, packets: Packets) -> None:
    for name in "abc":
        http.get(http.put(thing(lab, name), json=BODY).headers["azure-asyncoperation"])
    http.patch(thing(lab, "b"), json={"tags": {"in": "use"}})
    blocked = http.delete(f"{group(lab)}?{VERSION}")
    assert (blocked.status_code, blocked.json()["error"]["code"]) == (409, "ResourceGroupDeletionBlocked")
    assert blocked.json()["error"]["details"][0]["code"] == "InUseThingCannotBeDeleted"
    assert http.get(thing(lab, "a")).status_code == 200
    http.patch(thing(lab, "b"), json={"tags": {}})
    packets.seconds = 1.2
    deleted = http.delete(f"{group(lab)}?{VERSION}")
    assert (deleted.status_code, deleted.content) == (202, b"")
    assert "azure-asyncoperation" not in deleted.headers
    assert deleted.headers["location"].startswith(f"{lab.url}/subscriptions/{lab.provider}/operationresults/")
    waiting = http.get(deleted.headers["location"])
    assert (waiting.status_code, waiting.headers["location"]) == (202, deleted.headers["location"])
    assert state(http.get(f"{group(lab)}?{VERSION}")) == "Deleting"
    deadline = time.monotonic() + 5
    while http.get(deleted.headers["location"]).status_code == 202:
        assert time.monotonic() < deadline
    assert http.get(deleted.headers["location"]).status_code == 200
    assert http.get(f"{group(lab)}?{VERSION}").status_code == 404
    assert http.get(f"/subscriptions/{lab.provider}/resources?{VERSION}").json()["value"] == []
    assert http.delete(f"{group(lab)}?{VERSION}").status_code == 404


def test_two_clients_write_the_same_resource(lab: FakeLab, packets: Packets) -> None:
    packets.seconds = 0.3

    async def both() -> list[int]:
        headers = {"authorization": f"Bearer {lab.token()}"}
        async with httpx.AsyncClient(base_url=lab.url, verify=lab.tls(), headers=headers) as client:
            await client.put(f"{group(lab)}?{VERSION}", json={"location": "westeurope"})
            answers = await asyncio.gather(*(client.put(thing(lab), json=BODY) for _ in range(8)))
            return sorted(answer.status_code for answer in answers)

    assert asyncio.run(both()) == [201] + [409] * 7
