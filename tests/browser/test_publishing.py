"""A link is published, changed and unpublished by clicking, and what is done is what was shown."""

import asyncio
import re

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect
from tests.browser.conftest import OpenTab, Site, Tab
from tests.browser.test_pages import check_commands
from tests.fakes.link_scene import Scene, network_body
from tests.integration.control.test_control_links import ask, status_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

CLUSTER = "clpubl23457"
LINK = f"/clusters/{CLUSTER}/link"
SERVICE = f"privateLinkServices/isthmus-{CLUSTER}"


def frontend(scene: Scene) -> str:
    return scene.path(scene.provider, "loadBalancers/other/frontendIPConfigurations/front")


def subnet(scene: Scene) -> str:
    return scene.path(scene.provider, "virtualNetworks/other/subnets/nat")


@pytest.fixture(scope="module", autouse=True)
def second_ingress(site: Site) -> None:
    """A load balancer and a network for a cluster of this module's own."""
    scene = site.scene
    scene.put(scene.path(scene.provider, "virtualNetworks/other"), network_body("10.2", "services", "nat"))
    address = {
        "privateIPAddress": "10.2.0.10",
        "privateIPAllocationMethod": "Static",
        "subnet": {"id": scene.path(scene.provider, "virtualNetworks/other/subnets/services")},
    }
    body = {
        "location": "westeurope",
        "sku": {"name": "Standard"},
        "properties": {"frontendIPConfigurations": [{"name": "front", "properties": address}]},
    }
    scene.put(scene.path(scene.provider, "loadBalancers/other"), body)


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def cluster(site: Site) -> None:
    wanted = {"cluster_id": CLUSTER, "cidr": "10.2.0.0/16", "domain": "example.com", "region": "westeurope"}
    await site.plane.call("POST", "/clusters", wanted, status=201)


async def plan_to_publish(page: Page, scene: Scene) -> None:
    await page.get_by_role("link", name="Publish a link…").click()
    await page.get_by_label("Load balancer's frontend").fill(frontend(scene))
    await page.get_by_label("Subnet for NAT addresses").fill(subnet(scene))
    await page.get_by_role("button", name="Plan", exact=True).click()


async def published(site: Site) -> str:
    """The alias of this module's link, published if it is not."""
    answer = await site.plane.http.get(f"/control/v1{LINK}")
    if answer.status_code == 404:
        scene = site.scene
        body = {
            "service_id": scene.path(scene.provider, SERVICE),
            "frontend_id": frontend(scene),
            "nat_subnet_id": subnet(scene),
        }
        await site.plane.call("PUT", LINK, body, status=202)
    return str((await site.plane.until(LINK, lambda one: one.get("state") == "published"))["alias"])


async def unpublished(site: Site) -> None:
    answer = await site.plane.http.delete(f"/control/v1{LINK}", params={"force": True})
    assert answer.status_code in (202, 404), answer.text
    await site.plane.until(LINK, lambda one: one.get("code") == "link_not_found")


async def test_a_link_is_published_and_everybody_sees_it_come(admin: Tab, viewer: Tab, site: Site) -> None:
    await unpublished(site)
    page = admin.page
    await viewer.open(LINK)
    await expect(viewer.page.get_by_role("heading", name="No link is published")).to_be_visible()
    await expect(viewer.page.get_by_role("link", name="Publish a link…")).to_have_count(0)
    await admin.open(LINK)
    await plan_to_publish(page, site.scene)

    plan = page.get_by_role("region", name="What will be done")
    await expect(plan.get_by_role("listitem")).to_have_text(
        [re.compile("^Disable the policies"), re.compile(f"^Create link service isthmus-{CLUSTER} with 1 NAT address")]
    )
    await admin.check()
    await check_commands(admin)
    assert (await site.plane.http.get(f"/control/v1{LINK}")).status_code == 404, "a plan changes nothing"

    await page.get_by_role("button", name="Publish it").click()
    await expect(page.get_by_role("status").filter(has_text="The link is being published.")).to_be_visible()
    alias = await published(site)
    # Neither of the two pages is loaded again by anybody's hand.
    await expect(page.get_by_text(alias, exact=True)).to_be_visible()
    await expect(viewer.page.get_by_text(alias, exact=True)).to_be_visible()
    await expect(page.get_by_role("button", name="Copy the alias")).to_be_visible()
    await expect(page.get_by_role("region", name="The link is being published")).to_have_count(0)
    await admin.check()
    await viewer.check()
    await expect(viewer.page.get_by_role("link", name="Unpublish…")).to_have_count(0)


async def test_what_was_typed_wrong_is_said_and_kept(admin: Tab, site: Site) -> None:
    await unpublished(site)
    page = admin.page
    await admin.open(LINK)
    await page.get_by_role("link", name="Publish a link…").click()
    await page.get_by_label("Load balancer's frontend").fill("front")
    await page.get_by_label("Subnet for NAT addresses").fill(subnet(site.scene))
    await page.get_by_label("Who may ask").fill("somebody")
    await page.get_by_label("off: tokens cannot").check()
    await page.get_by_role("button", name="Plan", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("frontend_id")
    await admin.check()
    await expect(page.get_by_label("Load balancer's frontend")).to_have_value("front")
    await page.get_by_label("Load balancer's frontend").fill(frontend(site.scene))
    await page.get_by_role("button", name="Plan", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("visible_to")
    await expect(page.get_by_label("Who may ask")).to_have_value("somebody")
    await expect(page.get_by_label("off: tokens cannot")).to_be_checked()


async def test_what_the_cloud_refuses_is_the_links_problem_and_is_mended(admin: Tab, site: Site) -> None:
    await unpublished(site)
    page = admin.page
    await admin.open(LINK)
    await page.get_by_role("link", name="Publish a link…").click()
    await page.get_by_label("Load balancer's frontend").fill(frontend(site.scene) + "-of-nobody")
    await page.get_by_label("Subnet for NAT addresses").fill(subnet(site.scene))
    await page.get_by_role("button", name="Plan", exact=True).click()
    await page.get_by_role("button", name="Publish it").click()
    progress = page.get_by_role("region", name="Publishing is held up")
    await expect(progress).to_contain_text("There is no resource front-of-nobody")
    await expect(progress).to_contain_text("Look at its name")
    await expect(progress.get_by_role("listitem").filter(has_text="Create link service")).to_contain_text("tried again")
    await admin.check()

    await progress.get_by_role("link", name="Change what is asked for").click()
    await page.get_by_label("Load balancer's frontend").fill(frontend(site.scene))
    await page.get_by_role("button", name="Plan", exact=True).click()
    await page.get_by_role("button", name="Change it").click()
    await expect(page.get_by_role("button", name="Copy the alias")).to_be_visible()
    await expect(page.get_by_role("region", name="Publishing is held up")).to_have_count(0)


async def test_a_change_shows_what_was_and_what_becomes(admin: Tab, site: Site) -> None:
    alias = await published(site)
    page = admin.page
    await admin.open(LINK)
    await page.get_by_role("link", name="Change…").click()
    await expect(page.get_by_label("Who may ask")).to_have_value("*")
    await expect(page.get_by_text(subnet(site.scene), exact=True)).to_be_visible()
    await page.get_by_role("button", name="Plan", exact=True).click()
    await expect(page.get_by_role("region", name="All is as it should be")).to_be_visible()
    await expect(page.get_by_role("button", name="Change it")).to_have_count(0)

    await page.get_by_label("Who may ask").fill(site.scene.customer)
    await page.get_by_label("are each decided here").check()
    await page.get_by_role("button", name="Plan again").click()
    plan = page.get_by_role("region", name="What will be done")
    await expect(plan.get_by_role("listitem")).to_contain_text([f"visible to {site.scene.customer}"])
    await expect(plan).to_contain_text("Further endpoints approved as well")
    await expect(page.get_by_label("are each decided here")).to_be_checked()
    await admin.check()
    await check_commands(admin)
    await page.get_by_role("button", name="Change it").click()
    view = await site.plane.until(
        LINK, lambda one: one["state"] == "published" and one["visible_to"] == [site.scene.customer]
    )
    assert (view["alias"], view["inherits_approval"]) == (alias, False)
    await expect(page.get_by_text("are each decided", exact=True)).to_be_visible()


async def test_a_stale_plan_is_not_done_and_the_new_one_is_shown(admin: Tab, site: Site) -> None:
    await published(site)
    page = admin.page
    await admin.open(LINK)
    await page.get_by_role("link", name="Change…").click()
    await page.get_by_label("NAT addresses", exact=True).fill("2")
    await page.get_by_role("button", name="Plan", exact=True).click()
    before = await site.plane.call("GET", LINK)
    # Somebody else lets another subscription in, meanwhile: not in what was shown, and it would be taken back.
    names = ("service_id", "frontend_id", "nat_subnet_id", "has_proxy_protocol", "inherits_approval")
    body = {name: before[name] for name in names}
    await site.plane.call("PUT", LINK, {**body, "visible_to": [site.scene.provider]}, status=202)
    await site.plane.until(LINK, lambda one: one["state"] == "published" and one["visible_to"] == [site.scene.provider])

    await page.get_by_role("button", name="Change it").click()
    await expect(page.get_by_role("alert")).to_contain_text("Nothing was done")
    await expect(page.get_by_role("alert")).to_contain_text("plan_changed")
    view = await site.plane.call("GET", LINK)
    assert (view["visible_to"], len(view["nat_addresses"])) == ([site.scene.provider], 1)
    plan = page.get_by_role("region", name="What will be done")
    await expect(plan).to_contain_text("Who may ask")
    await admin.check()
    await page.get_by_role("button", name="Change it").click()
    await site.plane.until(LINK, lambda one: len(one["nat_addresses"]) == 2)


async def test_what_cannot_be_done_is_said_before(admin: Tab, site: Site) -> None:
    await published(site)
    view = await site.plane.call("GET", LINK)
    await admin.open(f"{LINK}/publish?frontend_id={view['frontend_id']}-2&nat_subnet_id={view['nat_subnet_id']}")
    page = admin.page
    await expect(page.get_by_role("region", name="This cannot be done")).to_contain_text("Neither can be changed")
    await expect(page.get_by_role("button", name="Change it")).to_have_count(0)
    await admin.check()


async def test_a_link_that_somebody_removed_is_published_again(admin: Tab, site: Site) -> None:
    alias = await published(site)
    page = admin.page
    await admin.open(LINK)
    await expect(page.get_by_text(alias, exact=True)).to_be_visible()
    await asyncio.to_thread(site.scene.delete, site.scene.path(site.scene.provider, SERVICE))
    await expect(page.get_by_text("Somebody removed the link service outside of Isthmus.")).to_be_visible()
    await admin.check()
    await page.get_by_role("link", name="Publish it again").click()
    await page.get_by_role("button", name="Plan", exact=True).click()
    await page.get_by_role("button", name="Change it").click()
    await expect(page.get_by_role("button", name="Copy the alias")).to_be_visible()
    await expect(page.get_by_text(alias, exact=True)).to_have_count(0)


async def test_unpublishing_names_who_is_cut_off_and_asks_twice(admin: Tab, open_tab: OpenTab, site: Site) -> None:
    await unpublished(site)
    alias = await published(site)
    first = await asyncio.to_thread(ask, site.scene, alias, "pub-first")
    [asked] = (await site.plane.until(f"{LINK}/connections", lambda one: one["connections"]))["connections"]
    await site.plane.call("POST", f"{LINK}/connections/{asked['connection_id']}/approve", {})
    page = admin.page
    await admin.open(LINK)
    await page.get_by_role("link", name="Unpublish…").click()
    await expect(page.get_by_role("heading", name="1 endpoint would be cut off")).to_be_visible()
    await expect(page.get_by_role("row").filter(has_text="pub-first")).to_contain_text("none is known")
    await expect(page.get_by_role("region", name="This is refused")).to_contain_text("would be cut for good")
    await expect(page.get_by_role("button", name="Unpublish the link")).to_have_count(0)
    await admin.check()

    await page.get_by_label("Force it").check()
    await page.get_by_role("button", name="Plan with force").click()
    await expect(page.get_by_role("region", name="What will be done")).to_contain_text(
        f"Delete link service isthmus-{CLUSTER}"
    )
    await admin.check()
    await check_commands(admin)
    await page.get_by_label("To agree, type the cluster's id").fill("clabcdefgh2")
    await page.get_by_role("button", name="Unpublish the link").click()
    await expect(page.get_by_role("alert")).to_contain_text(f"confirmation is not {CLUSTER}")

    # Another endpoint of the same customer connects while the page is open: it was not in what was shown.
    second = await asyncio.to_thread(ask, site.scene, alias, "pub-second")
    await site.plane.until(
        f"{LINK}/connections", lambda one: [item["state"] for item in one["connections"]] == ["approved"] * 2
    )
    await page.get_by_label("To agree, type the cluster's id").fill(CLUSTER)
    await page.get_by_role("button", name="Unpublish the link").click()
    await expect(page.get_by_role("alert")).to_contain_text("plan_changed")
    await expect(page.get_by_role("heading", name="2 endpoints would be cut off")).to_be_visible()
    assert [status_of(site.scene, one) for one in (first, second)] == ["Approved", "Approved"]

    other = await open_tab(site.viewer)
    await other.open(LINK)
    await page.get_by_label("To agree, type the cluster's id").fill(CLUSTER)
    await page.get_by_role("button", name="Unpublish the link").click()
    await expect(page.get_by_role("heading", name="No link is published")).to_be_visible()
    await expect(other.page.get_by_role("heading", name="No link is published")).to_be_visible()
    assert [status_of(site.scene, one) for one in (first, second)] == ["Disconnected", "Disconnected"]
    entries = (await site.plane.call("GET", "/audit", subject=f"link/{CLUSTER}"))["entries"]
    assert [one["action"] for one in entries[:2]] == ["link.unpublished", "link.unpublish"]
    assert len(entries[1]["after"]["approved"]) == 2


async def test_a_viewer_may_not_plan(viewer: Tab, site: Site) -> None:
    await published(site)
    for path in ("publish", "unpublish"):
        await viewer.open(f"{LINK}/{path}")
        await expect(viewer.page.get_by_text("operator_role")).to_be_visible()
        await viewer.check()
