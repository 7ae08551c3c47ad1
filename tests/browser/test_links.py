"""A customer's endpoint is let in, and turned away, by clicking."""

import asyncio

import pytest
from playwright.async_api import expect
from tests.browser.conftest import CLUSTER, LINK, OpenTab, Site, Tab
from tests.browser.test_pages import check_commands
from tests.integration.control.test_control_links import ask, status_of

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def test_a_pending_endpoint_appears_by_itself_and_is_approved(admin: Tab, site: Site) -> None:
    page = admin.page
    await admin.open(LINK)
    await expect(page.get_by_text(site.alias)).to_be_visible()
    began = asyncio.get_running_loop().time()
    endpoint = await asyncio.to_thread(ask, site.scene, site.alias, "by-itself")
    row = page.get_by_role("row").filter(has_text="by-itself")
    await expect(row).to_contain_text("pending")
    await expect(row).to_contain_text("from by-itself")
    seconds = asyncio.get_running_loop().time() - began
    assert seconds < 6, f"it took {seconds:.1f} s to be seen"
    await admin.check()

    await row.get_by_role("button", name="Approve").click()
    await expect(page.get_by_role("status").filter(has_text="is approved")).to_be_visible()
    await expect(row).to_contain_text("approved")
    assert status_of(site.scene, endpoint) == "Approved"


async def test_two_operators_decide_and_the_second_is_told(admin: Tab, open_tab: OpenTab, site: Site) -> None:
    await asyncio.to_thread(ask, site.scene, site.alias, "wanted-by-two")
    found = await site.plane.until(
        f"{LINK}/connections", lambda one: any("wanted-by-two" in item["endpoint_id"] for item in one["connections"])
    )
    [which] = [one for one in found["connections"] if "wanted-by-two" in one["endpoint_id"]]
    path = f"{LINK}/connections/{which['connection_id']}"
    other = await open_tab(site.admin)
    await admin.open(path)
    await other.open(path)
    await admin.check()

    await admin.page.get_by_label("Reason").nth(1).fill("not one of ours")
    await admin.page.get_by_role("button", name="Reject").click()
    await expect(admin.page.get_by_role("status").filter(has_text="is rejected")).to_be_visible()
    await expect(admin.page.get_by_text("not one of ours").first).to_be_visible()
    # Nothing else is possible for a rejected one, and the page says why.
    await expect(admin.page.get_by_role("button", name="Approve")).to_have_count(0)

    # The other one looked at it while it was pending.
    await other.page.get_by_label("Reason").nth(0).fill("a friend")
    await other.page.get_by_role("button", name="Approve").click()
    alert = other.page.get_by_role("alert")
    await expect(alert).to_contain_text("ann has decided on it")
    await expect(alert).to_contain_text("connection_decided")
    view = await site.plane.call("GET", f"{LINK}/connections")
    [after] = [one for one in view["connections"] if one["connection_id"] == which["connection_id"]]
    assert (after["state"], after["reason"]) == ("rejected", "not one of ours")


async def test_what_is_expected_is_approved_as_it_appears(admin: Tab, site: Site) -> None:
    page = admin.page
    await admin.open(LINK)
    await page.get_by_text("Expect an endpoint or a subscription").click()
    await page.get_by_label("Endpoint or subscription").fill("/subscriptions/nonsense")
    await page.get_by_label("Reason").fill("ordered")
    await page.get_by_role("button", name="Expect", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("endpoint_id")
    # What was typed is still there.
    await expect(page.get_by_label("Endpoint or subscription")).to_have_value("/subscriptions/nonsense")
    await expect(page.get_by_label("Reason")).to_have_value("ordered")
    await admin.check()

    endpoint = site.scene.path(site.scene.customer, "privateEndpoints/expected")
    await page.get_by_label("Endpoint or subscription").fill(endpoint)
    await page.get_by_role("button", name="Expect", exact=True).click()
    await expect(page.get_by_role("row").filter(has_text=endpoint)).to_contain_text("not yet")
    await asyncio.to_thread(ask, site.scene, site.alias, "expected")
    row = page.get_by_role("row").filter(has_text="from expected")
    await expect(row).to_contain_text("approved")
    await expect(row).to_contain_text("ordered")
    await admin.check()
    expectation = page.get_by_role("row").filter(has_text=endpoint)
    await expectation.get_by_role("button", name="Expect no longer").click()
    await expect(page.get_by_text("It is expected no longer.")).to_be_visible()
    await expect(page.get_by_role("row").filter(has_text=endpoint)).to_have_count(0)


async def test_what_goes_through_the_link_is_asked_for_and_shown_when_it_is_there(admin: Tab) -> None:
    await admin.open(LINK)
    traffic = admin.page.get_by_role("region", name="Traffic")
    await expect(traffic).to_contain_text("nothing measured", timeout=15_000)  # as it comes, without a reload
    await expect(traffic.get_by_role("time")).to_be_visible()
    await admin.check()
    await check_commands(admin)


async def test_the_guide_has_the_clusters_values_and_the_customers(admin: Tab, site: Site) -> None:
    page = admin.page
    await admin.open(f"/clusters/{CLUSTER}/guide")
    await expect(page.get_by_role("row", name="Resource Resource ID or alias")).to_contain_text(site.alias)
    for label, value in (
        ("Subscription id", "0b1f6471-1bf0-4dda-aec3-cb9272f09590"),
        ("Resource group", "agents-rg"),
        ("Region of the network", "westeurope"),
        ("Virtual network", "agents"),
        ("Subnet", "pods"),
    ):
        await page.get_by_label(label, exact=True).fill(value)
    await page.get_by_role("button", name="Fill in").click()
    assert "subscription=0b1f6471" in page.url
    await expect(page.get_by_role("row").filter(has_text="Virtual Network Links").first).to_contain_text("agents")
    for way, words in (
        ("az", ("az network private-endpoint create", "name=isthmus-privatelink", "group=agents-rg")),
        ("Terraform", ("azurerm_private_endpoint", "virtualNetworks/agents/subnets/pods", site.alias)),
        ("Isthmus", (f"--alias {site.alias}", "--vnet agents --subnet pods", f"--host {CLUSTER}.external.example.com")),
    ):
        await page.get_by_role("link", name=way, exact=True).click()
        assert f"way={way.lower()}" in page.url
        for word in words:
            await expect(page.get_by_role("main")).to_contain_text(word)
        assert "YOUR-" not in await page.get_by_role("main").inner_text()
        await admin.check()
