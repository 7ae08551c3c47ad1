"""Links from a wish to packets that may flow: the control plane on the lab's resource manager and a real PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.fakes.control_plane import SCENE_CLUSTER, ControlPlane, Json, prepare, running
from tests.fakes.lab import FakeLab
from tests.fakes.link_scene import HERE, LabCredential, Scene, on_fake_lab

from isthmus.kit.clocks import SystemClock
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.link.errors import CloudUnreachableError
from isthmus.link.states import ConnectionState

CLUSTER = "/clusters/clabcdefgh2"
LINK = f"{CLUSTER}/link"


class LateClock(SystemClock):
    """The machine's time, and more when a test says so."""

    def __init__(self) -> None:
        self.ahead = timedelta()

    def now(self) -> Any:
        return super().now() + self.ahead


@pytest.fixture
def lab_and_scene(tmp_path: Path) -> Iterator[tuple[FakeLab, Scene]]:
    with on_fake_lab(tmp_path) as both:
        yield both


@pytest.fixture
def lab(lab_and_scene: tuple[FakeLab, Scene]) -> FakeLab:
    return lab_and_scene[0]


@pytest.fixture
def scene(lab_and_scene: tuple[FakeLab, Scene]) -> Scene:
    return lab_and_scene[1]


@pytest.fixture
async def cloud(lab: FakeLab) -> AsyncIterator[AzureCloud]:
    config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with AzureCloud(config, LabCredential(lab)) as cloud:
        yield cloud


@pytest.fixture
def clock() -> LateClock:
    return LateClock()


@pytest.fixture
async def database_url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
async def plane(database_url: str, cloud: AzureCloud, clock: LateClock) -> AsyncIterator[ControlPlane]:
    token = await prepare(database_url)
    async with running(database_url, cloud, token, clock=clock) as plane:
        await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
        yield plane


def body(scene: Scene, **more: Any) -> Json:
    spec = scene.service_spec()
    return {
        "service_id": spec.service_id,
        "frontend_id": spec.frontend_id,
        "nat_subnet_id": spec.nat_subnet_id,
        **more,
    }


async def published(plane: ControlPlane, scene: Scene, **more: Any) -> str:
    await plane.call("PUT", LINK, body(scene, **more), status=202)
    return str((await plane.until(LINK, lambda one: one["state"] == "published"))["alias"])


def ask(scene: Scene, alias: str, name: str = "isthmus-privatelink", subscription: str | None = None) -> str:
    """An endpoint of a customer's, without Isthmus; its id."""
    path = scene.path(subscription or scene.customer, f"privateEndpoints/{name}")
    request = {"name": "link", "properties": {"privateLinkServiceId": alias, "requestMessage": f"from {name}"}}
    subnet = (
        scene.subnet_id()
        if subscription is None
        else scene.path(subscription, "virtualNetworks/plane/subnets/services")
    )
    properties = {"subnet": {"id": subnet}, "manualPrivateLinkServiceConnections": [request]}
    scene.put(path, {"location": HERE, "properties": properties})
    return path


def status_of(scene: Scene, endpoint_id: str) -> str:
    [connection] = scene.get(endpoint_id)["properties"]["manualPrivateLinkServiceConnections"]
    return str(connection["properties"]["privateLinkServiceConnectionState"]["status"])


async def one(plane: ControlPlane, state: str, name: str = "isthmus-privatelink") -> Json:
    """The connection of an endpoint when it is in a state."""

    def found(page: Json) -> list[Json]:
        return [item for item in page.get("connections", ()) if item["endpoint_id"].endswith(f"/{name}")]

    path = f"{LINK}/connections" + ("?state=disconnected" if state == "disconnected" else "")
    page = await plane.until(path, lambda page: any(item["state"] == state for item in found(page)))
    return next(item for item in found(page) if item["state"] == state)


async def warned(plane: ControlPlane, *codes: str) -> None:
    """Wait until exactly this is wrong."""
    found: list[str] = []
    for _ in range(100):
        health = (await plane.http.get("/healthz")).json()
        found = [warning["code"] for warning in health["warnings"]]
        if sorted(found) == sorted(codes):
            return
        await asyncio.sleep(0.05)
    raise AssertionError(found)


async def actions(plane: ControlPlane) -> list[tuple[str, str]]:
    page = await plane.call("GET", "/audit", limit=500)
    return [(entry["operator"], entry["action"]) for entry in reversed(page["entries"])]


async def test_a_link_from_its_plan_to_an_approved_connection_and_back(plane: ControlPlane, scene: Scene) -> None:
    await plane.call("GET", LINK, status=404)
    plan = await plane.call("POST", f"{LINK}/plan", {"link": body(scene)})
    assert [step["kind"] for step in plan["steps"]] == ["disable_subnet_policies", "create_service"]
    assert not scene.exists(scene.service_id)

    alias = await published(plane, scene)
    assert scene.get(scene.service_id)["properties"]["alias"] == alias
    view = await plane.call("GET", LINK)
    assert view["nat_addresses"]
    assert view["problem"] is None
    assert (await plane.call("GET", CLUSTER))["alias"] == alias
    assert (await plane.call("POST", f"{LINK}/plan", {"link": body(scene)}))["steps"] == []
    assert (await plane.call("GET", f"{CLUSTER}/ingress"))["link_networks"] == ["10.1.0.0/16"]

    endpoint = ask(scene, alias)
    pending = await one(plane, "pending")
    assert pending["subscription"] == scene.customer
    assert pending["expires_at"] is not None
    approved = await plane.call(
        "POST", f"{LINK}/connections/{pending['connection_id']}/approve", {"reason": "a friend", "version": 1}
    )
    assert (approved["state"], approved["decided_by"], approved["wanted"]) == ("approved", "ann", None)
    assert approved["link_id"] is not None
    assert status_of(scene, endpoint) == "Approved"
    assert await one(plane, "approved") | {"version": 0} == approved | {"version": 0}

    await plane.call("DELETE", LINK, status=409)
    where = f"{LINK}/connections/{pending['connection_id']}"
    rejected = await plane.call("POST", f"{where}/reject", {"reason": "no more"})
    assert rejected["state"] == "rejected"
    assert status_of(scene, endpoint) == "Rejected"
    refused = await plane.call("POST", f"{where}/approve", {}, status=409)
    assert refused["code"] == "connection_final"
    removed = await plane.call("POST", f"{where}/remove", {})
    assert removed["state"] == "disconnected"
    assert status_of(scene, endpoint) == "Disconnected"
    assert (await plane.call("GET", f"{LINK}/connections"))["connections"] == []

    await plane.call("DELETE", LINK, status=202)
    await plane.until(LINK, lambda found: found.get("code") == "link_not_found")
    assert not scene.exists(scene.service_id)
    assert await actions(plane) == [
        ("test", "operator.create"),
        ("ann", "cluster.create"),
        ("ann", "link.publish"),
        ("outside", "connection.request"),
        ("ann", "connection.approve"),
        ("ann", "connection.reject"),
        ("ann", "connection.remove"),
        ("ann", "link.unpublish"),
        ("isthmus", "link.unpublished"),
    ]


async def test_what_is_expected_is_approved_as_it_appears(plane: ControlPlane, scene: Scene) -> None:
    alias = await published(plane, scene, inherits_approval=False)
    wanted = {"endpoint_id": scene.endpoint_id.replace("isthmus", "ISTHMUS"), "reason": "ordered"}
    made = await plane.call("POST", f"{LINK}/expectations", wanted, status=201)
    assert await plane.call("POST", f"{LINK}/expectations", wanted, status=200) == made
    ask(scene, alias)
    approved = await one(plane, "approved")
    assert (approved["decided_by"], approved["reason"]) == ("isthmus", "ordered")
    ask(scene, alias, "another")
    await one(plane, "pending", "another")
    await plane.call("POST", f"{LINK}/expectations", {"subscription": scene.customer}, status=201)
    assert (await one(plane, "approved", "another"))["reason"] == "expected by ann"
    page = await plane.call("GET", f"{LINK}/expectations")
    assert all(item["matched_at"] for item in page["expectations"])
    await plane.call("DELETE", f"{LINK}/expectations/{made['expectation_id']}", status=204)
    await plane.call("DELETE", f"{LINK}/expectations/{made['expectation_id']}", status=404)
    await plane.call("POST", f"{LINK}/expectations", {}, status=422)


async def test_further_endpoints_of_an_approved_customer_inherit(plane: ControlPlane, scene: Scene) -> None:
    alias = await published(plane, scene)
    ask(scene, alias)
    first = await one(plane, "pending")
    where = f"{LINK}/connections/{first['connection_id']}"
    await plane.call("POST", f"{where}/approve", {})
    ask(scene, alias, "second")
    assert (await one(plane, "approved", "second"))["reason"] == "as isthmus-privatelink"
    in_use = await plane.call("DELETE", LINK, status=409)
    assert in_use["code"] == "link_in_use"
    another = {**body(scene), "service_id": body(scene)["service_id"] + "-2"}
    assert (await plane.call("PUT", LINK, another, status=409))["code"] == "link_exists"
    unknown = await plane.call("POST", f"{LINK}/connections/cn2222222222/approve", {}, status=404)
    assert unknown["code"] == "connection_not_found"
    ask(scene, alias, "foreign", scene.provider)
    await one(plane, "pending", "foreign")
    await plane.call("POST", f"{where}/reject", {})
    ask(scene, alias, "third")
    await one(plane, "pending", "third")
    await asyncio.sleep(0.6)
    await one(plane, "pending", "third")
    await one(plane, "pending", "foreign")


@pytest.mark.parametrize("verb", ["reject", "remove"])
async def test_who_was_refused_is_not_let_in_by_asking_again(plane: ControlPlane, scene: Scene, verb: str) -> None:
    alias = await published(plane, scene)
    ask(scene, alias)
    first = await one(plane, "pending")
    await plane.call("POST", f"{LINK}/connections/{first['connection_id']}/approve", {})
    endpoint = ask(scene, alias, "second")
    second = await one(plane, "approved", "second")
    await plane.call("POST", f"{LINK}/connections/{second['connection_id']}/{verb}", {"reason": "ended"})
    scene.delete(endpoint)
    await one(plane, "disconnected", "second")
    ask(scene, alias, "second")
    again = await one(plane, "pending", "second")
    await asyncio.sleep(0.6)
    assert (await one(plane, "pending", "second"))["connection_id"] == again["connection_id"] != second["connection_id"]
    # Somebody's approval counts from then on, for further ones as well.
    await plane.call("POST", f"{LINK}/connections/{again['connection_id']}/approve", {})
    ask(scene, alias, "third")
    assert (await one(plane, "approved", "third"))["reason"] == "as second"


async def test_a_link_that_somebody_changed_elsewhere_is_said_to_differ(plane: ControlPlane, scene: Scene) -> None:
    await published(plane, scene)
    there = scene.get(scene.service_id)
    scene.put(scene.service_id, {**there, "properties": {**there["properties"], "enableProxyProtocol": False}})
    shown = await plane.until(LINK, lambda link: link.get("problem") is not None)
    assert (shown["problem"]["code"], "PROXY v2 on" in shown["problem"]["sentence"]) == ("link_differs", True)
    await plane.call("PUT", LINK, body(scene), status=202)
    await plane.until(LINK, lambda link: link["state"] == "published" and link["problem"] is None)
    assert scene.get(scene.service_id)["properties"]["enableProxyProtocol"] is True


async def test_pending_connections_expire_after_two_weeks(plane: ControlPlane, scene: Scene, clock: LateClock) -> None:
    alias = await published(plane, scene)
    endpoint = ask(scene, alias)
    await one(plane, "pending")
    clock.ahead = timedelta(days=13, hours=23)
    await asyncio.sleep(0.6)
    await one(plane, "pending")
    clock.ahead = timedelta(days=14, seconds=30)
    assert (await one(plane, "expired"))["decided_by"] == "isthmus"
    assert status_of(scene, endpoint) == "Rejected"
    await asyncio.sleep(0.6)
    await one(plane, "expired")


async def test_changes_made_elsewhere_are_seen(plane: ControlPlane, scene: Scene) -> None:
    alias = await published(plane, scene)
    endpoint = ask(scene, alias)
    await one(plane, "pending")
    scene.decide("Approved")
    assert (await one(plane, "approved"))["decided_by"] is None
    scene.delete(endpoint)
    await one(plane, "disconnected")
    scene.delete(scene.service_id)
    await plane.until(LINK, lambda found: found["state"] == "missing")
    await warned(plane, "plain_http", "link_missing")
    assert ("outside", "link.removed") in await actions(plane)
    again = await published(plane, scene)
    assert again != alias


async def test_of_two_operators_who_decide_at_once_one_decides(plane: ControlPlane, scene: Scene) -> None:
    alias = await published(plane, scene)
    endpoint = ask(scene, alias)
    pending = await one(plane, "pending")
    await plane.call("POST", "/operators", {"name": "bob", "role": "admin"}, status=201)
    second = await plane.call("POST", "/operators", {"name": "eve", "role": "admin"}, status=201)
    where = f"/control/v1{LINK}/connections/{pending['connection_id']}"
    seen = {"version": pending["version"]}
    async with plane.connected(Authorization=f"Bearer {second['secret']}") as eve:
        answers = await asyncio.gather(
            plane.http.post(f"{where}/approve", json=seen), eve.post(f"{where}/reject", json=seen)
        )
        assert sorted(answer.status_code for answer in answers) == [200, 409]
        [loser] = [answer.json() for answer in answers if answer.status_code == 409]
        assert loser["code"] == "connection_decided"
        winner, verb = ("ann", "approve") if answers[0].status_code == 200 else ("eve", "reject")
        assert winner in loser["detail"]
        assert status_of(scene, endpoint) == ("Approved" if verb == "approve" else "Rejected")
        decisions = [entry for entry in await actions(plane) if entry[1] in ("connection.approve", "connection.reject")]
        assert decisions == [(winner, f"connection.{verb}")]
        # The same once more, by either: what stands is left as it is.
        again = await eve.post(f"{where}/{verb}", json=seen)
        assert (again.status_code, again.json()["decided_by"]) == (200, winner)


async def test_a_link_that_cannot_be_made_says_why_and_goes_on_when_it_can(plane: ControlPlane, scene: Scene) -> None:
    wrong = body(scene, nat_subnet_id=scene.path(scene.provider, "virtualNetworks/plane/subnets/none"))
    await plane.call("PUT", LINK, wrong, status=202)
    held = await plane.until(LINK, lambda found: found["problem"] is not None)
    assert held["state"] == "publishing"
    assert held["problem"]["code"] == "subnet_not_found"
    await warned(plane, "plain_http", "cloud_refuses")
    refused = await plane.call("POST", f"{LINK}/plan", {"link": wrong}, status=409)
    assert refused["code"] == "cloud_refused"
    await published(plane, scene)
    await warned(plane, "plain_http")


class Broken(AzureCloud):
    """A cloud that does not answer while it is away."""

    is_away = False

    async def decide(self, *arguments: Any) -> Any:
        self._answer()
        return await super().decide(*arguments)

    async def observe_service(self, *arguments: Any) -> Any:
        self._answer()
        return await super().observe_service(*arguments)

    def _answer(self) -> None:
        if self.is_away:
            raise CloudUnreachableError("no answer", code="cloud_unreachable")


async def test_a_decision_that_the_cloud_does_not_hear_is_carried_on(
    database_url: str, lab: FakeLab, scene: Scene
) -> None:
    token = await prepare(database_url)
    config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with Broken(config, LabCredential(lab)) as cloud:
        async with running(database_url, cloud, token) as plane:
            await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
            endpoint = ask(scene, await published(plane, scene))
            pending = await one(plane, "pending")
            cloud.is_away = True
            where = f"{LINK}/connections/{pending['connection_id']}"
            decided = await plane.call("POST", f"{where}/approve", {}, status=202)
            assert (decided["state"], decided["wanted"]) == ("pending", "approve")
            assert status_of(scene, endpoint) == "Pending"
            other = await plane.call("POST", f"{where}/reject", {}, status=409)
            assert other["detail"] == "ann has decided to approve it."
        # The process ends; the next one finds the decision and carries it on.
        cloud.is_away = False
        async with running(database_url, cloud, token) as plane:
            assert (await one(plane, "approved"))["decided_by"] == "ann"
            assert status_of(scene, endpoint) == "Approved"


def test_states_are_the_links_own() -> None:
    from isthmus.wire.names import ConnectionState as Shown  # noqa: PLC0415

    assert {one.value for one in ConnectionState} == {one.value for one in Shown}


async def test_a_cluster_has_one_link_and_a_cloud_that_is_away_is_said(
    database_url: str, lab: FakeLab, scene: Scene
) -> None:
    token = await prepare(database_url)
    config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
    async with Broken(config, LabCredential(lab)) as cloud, running(database_url, cloud, token) as plane:
        await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
        await published(plane, scene)
        other = scene.path(scene.provider, "privateLinkServices/other")
        refused = await plane.call("PUT", LINK, body(scene, service_id=other), status=409)
        assert refused["code"] == "link_exists"
        missing = await plane.call("POST", f"{LINK}/connections/cn2222222222/approve", {}, status=404)
        assert missing["code"] == "connection_not_found"
        cloud.is_away = True
        away = await plane.call("POST", f"{LINK}/plan", {"link": body(scene)}, status=503)
        assert away["code"] == "cloud_unavailable"
