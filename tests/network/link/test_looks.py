"""How the pages look over a real scene: nothing that keeps people out, nothing wider than the window.

With SCREENSHOTS=DIRECTORY each page is kept there in four looks, as WebP: ``make screenshots``, for docs/pages.md.
"""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect
from tests.fakes.link_scene import HOST

from faults.harness import endings, waits
from faults.harness.planes import Plane
from faults.harness.runs import Run
from isthmus.wire import paths
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind
from network.link.customers import ENDPOINT, Customer, NetworkAgent
from network.link.desks import Desk, chromium
from network.link.provider import Provider
from network.link.sites import Site

CLUSTER = f"/clusters/{HOST.cluster_id}"
DEPLOYMENT = f"{CLUSTER}/deployments/{Plane.deployment_id}"
LOOKS: dict[str, dict[str, Any]] = {
    "wide-light": {"color_scheme": "light"},
    "wide-dark": {"color_scheme": "dark"},
    "narrow-light": {"color_scheme": "light", "viewport": {"width": 390, "height": 844}},
    "narrow-dark": {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}},
}
#: These two meet every rule of layout and of colour; the others are for the docs.
CHECKED = ("wide-light", "narrow-dark")
SERIOUS = ("serious", "critical")


@dataclass(frozen=True)
class Scene:
    """What the pages have to show, by what its address needs."""

    agent_id: str
    workload_id: str
    connection_id: str
    verification_id: str

    def pages(self) -> dict[str, str]:
        """Name of the picture → address."""
        return {
            "overview": "/overview",
            "deployments": "/deployments",
            "deployment": DEPLOYMENT,
            "agents": f"{DEPLOYMENT}/agents",
            "agent": f"{DEPLOYMENT}/agents/{self.agent_id}",
            "register": f"{DEPLOYMENT}/agents/register?name=oslo-2&queues=oslo&slots=8",
            "tokens": f"{DEPLOYMENT}/tokens",
            "refused": f"{DEPLOYMENT}/refused",
            "verify": f"{DEPLOYMENT}/verify",
            "verification": f"{DEPLOYMENT}/verify/{self.verification_id}",
            "queues": f"{DEPLOYMENT}/queues",
            "bundles": f"{DEPLOYMENT}/bundles",
            "triggers": f"{DEPLOYMENT}/triggers",
            "workloads": f"{DEPLOYMENT}/workloads",
            "workload": f"{DEPLOYMENT}/workloads/{self.workload_id}",
            "access": f"{DEPLOYMENT}/access",
            "access-trial": f"{DEPLOYMENT}/access?to=cluster",
            "clusters": "/clusters",
            "cluster": CLUSTER,
            "link": f"{CLUSTER}/link",
            "link-change": f"{CLUSTER}/link/publish",
            "link-unpublish": f"{CLUSTER}/link/unpublish",
            "connection": f"{CLUSTER}/link/connections/{quote(self.connection_id)}",
            "guide-portal": f"{CLUSTER}/guide",
            "guide-az": f"{CLUSTER}/guide?way=az",
            "guide-isthmus": f"{CLUSTER}/guide?way=isthmus",
            "guide-terraform": f"{CLUSTER}/guide?way=terraform",
            "operators": "/operators",
            "audit": "/audit",
        }


@pytest.fixture(scope="module")
def scene(provider: Provider, one: Customer, other: Customer) -> Iterator[Scene]:
    """A healthy agent with work, a silent one, DAGs of a site, an endpoint that waits, somebody who is turned away."""
    oslo, bergen = NetworkAgent(one, "oslo", name="oslo-1"), NetworkAgent(other, "bergen", name="bergen-1")
    site = Site(one, "bodo-1")
    waiting = Customer(provider, "trondheim")
    creating = None
    try:
        oslo.start(ready=False)
        bergen.start(ready=False)
        oslo.await_path(PathKind.LINK, one.link_id())
        bergen.await_path(PathKind.LINK, other.link_id())
        site.start(ready=False)
        endings.assert_all_well(Run(oslo.plane, oslo.lane, gated=False, seconds=0), oslo, tries=1)
        bergen.kill()
        site.await_parsed()
        site.defer()
        run = Run(oslo.plane, oslo.lane)
        run.await_starts(oslo.slots)
        creating = waiting.start_endpoint(*waiting.create_words("--message", "Trondheim, ticket 12"))
        pending = provider.connection(waiting.endpoint_id, "pending")
        one.verify("_".join([*oslo.token.split("_")[:3], "x" * 43]))
        view = oslo.view()
        assert view is not None
        asked = provider.deployment.admin.post(
            paths.ADMIN_AGENT_PROBES.format(agent_id=view.agent_id), json={"public_allowed": True}
        )
        assert asked.status_code == 202
        log = provider.deployment.admin.post(
            paths.ADMIN_AGENT_LOG.format(agent_id=view.agent_id), json={"ordered_by": "ann"}
        )
        assert log.status_code == 202

        def ready() -> bool:
            seen, silent = oslo.view(), bergen.view()
            assert seen is not None
            assert silent is not None
            return seen.probe_report is not None and silent.health is AgentHealth.UNHEALTHY

        waits.until("the scene is as it shall be", ready, seconds=60, evidence=oslo.evidence)
        yield Scene(
            *(str(view.agent_id), str(run.works()[0].workload_id), str(pending["connection_id"])),
            verification_id=asked.json()["probes_order_id"],
        )
        run.open_gate()
    finally:
        if creating is not None:
            creating.terminate()
            creating.communicate(timeout=20)
            waiting.endpoint("delete")
        oslo.close()
        bergen.close()
        site.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_what_is_wrong_is_named(provider: Provider, browser: Browser, scene: Scene) -> None:
    desk = Desk(provider, browser)
    desk.open("/overview")
    for about in (f"Endpoint trondheim/{ENDPOINT}", "Agent bergen-1", "The door of"):
        desk.trouble(about)
    desk.context.close()


@pytest.mark.parametrize("look", LOOKS if "SCREENSHOTS" in os.environ else CHECKED)
def test_every_page_is_fit_for_everybody(look: str, provider: Provider, browser: Browser, scene: Scene) -> None:
    desk = Desk(provider, browser, **LOOKS[look])
    for name, address in scene.pages().items():
        page = desk.open(address)
        expect(page.get_by_role("heading", level=1), name).to_have_count(1)
        if look in CHECKED:
            found = Axe().run(page).response
            assert found["passes"], "axe looked at nothing"
            assert [one["id"] for one in found["violations"] if one["impact"] in SERIOUS] == [], name
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{name} is {wide} pixels too wide"
        if "SCREENSHOTS" in os.environ:
            _keep(desk, Path(os.environ["SCREENSHOTS"]) / f"{name}-{look}.webp")
    assert desk.complaints == []
    desk.context.close()


def _keep(desk: Desk, path: Path) -> None:
    """The whole page, as far down as people would look. Only the browser's own protocol writes WebP."""
    height = desk.page.evaluate("Math.min(document.documentElement.scrollHeight, 2600)")
    clip = {"x": 0, "y": 0, "width": desk.page.viewport_size["width"], "height": height, "scale": 1}  # type: ignore[index]
    session = desk.context.new_cdp_session(desk.page)
    options = {"format": "webp", "quality": 82, "captureBeyondViewport": True, "clip": clip}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(base64.b64decode(session.send("Page.captureScreenshot", options)["data"]))
    session.detach()
