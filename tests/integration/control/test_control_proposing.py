"""What was agreed to is what is done: plans with a digest, on the lab's resource manager and a real PostgreSQL."""

import asyncio

from tests.fakes.control_plane import ControlPlane
from tests.fakes.link_scene import Scene
from tests.integration.control.test_control_links import (  # noqa: F401 - fixtures
    LINK,
    ask,
    body,
    clock,
    cloud,
    database_url,
    lab,
    lab_and_scene,
    one,
    plane,
    published,
    scene,
    status_of,
)


async def test_a_plan_that_was_agreed_to_is_done(plane: ControlPlane, scene: Scene) -> None:  # noqa: F811
    wish = body(scene)
    plan = await plane.call("POST", f"{LINK}/plan", {"link": wish})
    assert [step["kind"] for step in plan["steps"]] == ["disable_subnet_policies", "create_service"]
    again = await plane.call("POST", f"{LINK}/plan", {"link": wish})
    assert plan["digest"] == again["digest"], "a plan of the same has the same name"
    await plane.call("PUT", LINK, wish, plan=plan["digest"], status=202)
    await plane.until(LINK, lambda found: found["state"] == "published")


async def test_a_wish_other_than_the_one_agreed_to_is_refused(plane: ControlPlane, scene: Scene) -> None:  # noqa: F811
    plan = await plane.call("POST", f"{LINK}/plan", {"link": body(scene)})
    refused = await plane.call("PUT", LINK, body(scene, nat_addresses=2), plan=plan["digest"], status=409)
    assert refused["code"] == "plan_changed"
    # What only we know of counts as well, although no step at the cloud is another one.
    refused = await plane.call("PUT", LINK, body(scene, inherits_approval=False), plan=plan["digest"], status=409)
    assert refused["code"] == "plan_changed"
    assert (await plane.call("GET", LINK, status=404))["code"] == "link_not_found"


async def test_a_plan_is_stale_when_the_cloud_has_changed(plane: ControlPlane, scene: Scene) -> None:  # noqa: F811
    await published(plane, scene)
    wish = body(scene, nat_addresses=2)
    plan = await plane.call("POST", f"{LINK}/plan", {"link": wish})
    service = await asyncio.to_thread(scene.get, scene.service_id)
    changed = {**service, "properties": {**service["properties"], "enableProxyProtocol": False}}
    await asyncio.to_thread(scene.put, scene.service_id, changed)
    assert (await plane.call("PUT", LINK, wish, plan=plan["digest"], status=409))["code"] == "plan_changed"
    assert len((await plane.call("GET", LINK))["nat_addresses"]) == 1
    plan = await plane.call("POST", f"{LINK}/plan", {"link": wish})
    assert "PROXY v2 on; 2 NAT addresses" in plan["steps"][0]["sentence"]
    await plane.call("PUT", LINK, wish, plan=plan["digest"], status=202)
    await plane.until(LINK, lambda found: len(found["nat_addresses"]) == 2)


async def test_who_was_not_shown_is_not_cut_off(plane: ControlPlane, scene: Scene) -> None:  # noqa: F811
    alias = await published(plane, scene)
    await asyncio.to_thread(ask, scene, alias, "first")
    shown = await one(plane, "pending", "first")
    await plane.call("POST", f"{LINK}/connections/{shown['connection_id']}/approve", {})
    plan = await plane.call("POST", f"{LINK}/plan", {"force": True})
    assert plan["blocks"] == []
    second = await asyncio.to_thread(ask, scene, alias, "second")
    await one(plane, "approved", "second")  # of the same customer
    refused = await plane.call("DELETE", LINK, force=True, plan=plan["digest"], status=409)
    assert refused["code"] == "plan_changed"
    assert (await plane.call("GET", LINK))["state"] == "published"
    assert await asyncio.to_thread(status_of, scene, second) == "Approved"
    # A plan without force is not one with it.
    careful = await plane.call("POST", f"{LINK}/plan", {"force": False})
    assert [block["code"] for block in careful["blocks"]] == ["customers_connected"]
    await plane.call("DELETE", LINK, force=True, plan=careful["digest"], status=409)
    plan = await plane.call("POST", f"{LINK}/plan", {"force": True})
    await plane.call("DELETE", LINK, force=True, plan=plan["digest"], status=202)
    await plane.until(LINK, lambda found: found.get("code") == "link_not_found")


async def test_of_two_who_agreed_to_the_same_plan_one_is_told(plane: ControlPlane, scene: Scene) -> None:  # noqa: F811
    await published(plane, scene)
    narrow, wide = body(scene, nat_addresses=2), body(scene, nat_addresses=3)
    plans = [await plane.call("POST", f"{LINK}/plan", {"link": wish}) for wish in (narrow, wide)]
    both = [
        plane.http.put(f"/control/v1{LINK}", json=wish, params={"plan": plan["digest"]})
        for wish, plan in zip((narrow, wide), plans, strict=True)
    ]
    answers = await asyncio.gather(*both)
    assert sorted(answer.status_code for answer in answers) == [202, 409]


async def test_what_holds_a_step_up_is_shown_with_it(plane: ControlPlane, scene: Scene) -> None:  # noqa: F811
    nowhere = scene.path(scene.provider, "loadBalancers/front/frontendIPConfigurations/nobodys")
    plan = await plane.call("POST", f"{LINK}/plan", {"link": body(scene, frontend_id=nowhere)})
    await plane.call("PUT", LINK, body(scene, frontend_id=nowhere), plan=plan["digest"], status=202)
    found = await plane.until(LINK, lambda view: view["problem"] is not None)
    assert found["state"] == "publishing"
    assert "nobodys" in found["problem"]["sentence"]
    assert found["problem"]["hint"]
    steps = [(step["kind"], step["state"], step["trouble"]) for step in found["progress"]]
    assert steps == [
        ("disable_subnet_policies", "done", ""),
        ("create_service", "retrying", found["problem"]["sentence"]),
    ]
    # The same wish with the right frontend goes on from there.
    await plane.call("PUT", LINK, body(scene), status=202)
    there = await plane.until(LINK, lambda view: view["state"] == "published")
    assert there["problem"] is None
    assert (await plane.until(LINK, lambda view: not view["progress"]))["alias"]
