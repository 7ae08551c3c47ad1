"""Lists that are longer than a page: paged and filtered by the server, with their state in the address; and exports."""

import asyncio
import csv
import io
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect
from sqlalchemy import text
from tests.browser.conftest import CLUSTER, LINK, Site, Tab
from tests.browser.test_page_security import signed_in
from tests.browser.test_pages import check_commands
from tests.fakes import admin_api
from tests.fakes.admin_api import FakeAdminApi
from tests.integration.control.test_control_links import ask

from isthmus.control.databases import Database
from isthmus.wire.admin import TokenState
from isthmus.wire.names import PathKind
from isthmus.wire.probes import ProbeReport, ProbeRow, ProbeStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = f"/clusters/{CLUSTER}/deployments/dtest234"
ENDPOINTS = 55


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoints(site: Site) -> None:
    """More endpoints than a page has, of one customer, all pending."""

    def make() -> None:
        for number in range(ENDPOINTS):
            ask(site.scene, site.alias, f"many-{number:02}")

    await asyncio.to_thread(make)
    await site.plane.until(LINK, lambda one: one["connections"].get("pending") == ENDPOINTS)


@pytest_asyncio.fixture(loop_scope="module")
async def api(site: Site) -> AsyncIterator[FakeAdminApi]:
    """A deployment that is registered, without anything yet."""
    with admin_api.serving() as fake:
        (site.tokens / "good").write_text(admin_api.TOKEN)
        body = {"servers": ["https://localhost:1"], "admin_url": fake.url, "admin_token_reference": "good"}
        await site.plane.call("PUT", BASE, body)
        yield fake
        await site.plane.call("DELETE", BASE, status=204)


def rows(part: Page | Locator) -> Locator:
    return part.locator("tbody tr")


async def test_endpoints_beyond_the_first_page_are_found(admin: Tab, site: Site, endpoints: None) -> None:
    page = admin.page
    await admin.open(LINK)
    part = page.get_by_role("region", name="Connections")
    await expect(rows(part)).to_have_count(50)
    await expect(part).to_contain_text("55 endpoints wait")
    await part.get_by_role("link", name="Next page").click()
    await expect(rows(part)).to_have_count(ENDPOINTS - 50)
    assert "after=cn" in page.url
    await admin.check()
    # What can be done on the first page can be done on the second, and one is still there then.
    name = await rows(part).first.get_by_role("link").first.inner_text()
    await part.get_by_role("button", name=f"Approve {name}").click()
    await expect(rows(part).filter(has_text=name)).to_contain_text("approved")
    assert "after=cn" in page.url
    await part.get_by_role("link", name="Back to the first page").click()
    await expect(rows(part)).to_have_count(50)

    await part.get_by_label("Endpoint or message").fill("MANY-4")
    await part.get_by_role("button", name="Filter").click()
    await expect(rows(part)).to_have_count(10)
    await part.get_by_label("State").select_option("rejected")
    await expect(page).to_have_url(site.url(f"{LINK}?state=rejected&find=MANY-4"))
    await expect(part).to_contain_text("No connection is like that.")
    await admin.check()
    await check_commands(admin)
    await part.get_by_label("Endpoint or message").fill("100%_")
    await part.get_by_role("button", name="Filter").click()
    await expect(part).to_contain_text("No connection is like that.")
    await part.get_by_role("link", name="Show all").click()
    await expect(rows(part)).to_have_count(50)


async def test_the_api_pages_and_filters_alike(site: Site, endpoints: None) -> None:
    path = f"{LINK}/connections"
    first = await site.plane.call("GET", path, limit=30, find="many-")
    second = await site.plane.call("GET", path, limit=30, find="many-", after=first["next_after"])
    found = [one["connection_id"] for one in (*first["connections"], *second["connections"])]
    assert len(set(found)) == ENDPOINTS
    assert second["next_after"] is None
    assert len((await site.plane.call("GET", path, find=site.scene.customer.upper()))["connections"]) == ENDPOINTS


async def test_what_is_expected_is_paged_beside_the_connections(admin: Tab, site: Site, endpoints: None) -> None:
    for number in range(52):
        body = {"subscription": f"0b1f6471-1bf0-4dda-aec3-{number:012}", "reason": f"order {number}"}
        await site.plane.call("POST", f"{LINK}/expectations", body, status=201)
    page = admin.page
    await admin.open(f"{LINK}?state=pending")
    part = page.get_by_role("region", name="Expected")
    await expect(rows(part)).to_have_count(50)
    await expect(rows(part).first).to_contain_text("order 51")
    await part.get_by_role("link", name="Next page").click()
    await expect(rows(part)).to_have_count(2)
    assert "state=pending" in page.url, "the other list stays as it was"
    await expect(rows(part).last).to_contain_text("order 0")
    await part.get_by_role("button", name="Expect no longer").last.click()
    await expect(rows(part)).to_have_count(1)
    await part.get_by_label("Id or reason").fill("order 51")
    await part.get_by_role("button", name="Filter").click()
    await expect(rows(part)).to_have_count(1)
    await admin.check()
    await check_commands(admin)
    found = await site.plane.call("GET", f"{LINK}/expectations")
    assert (len(found["expectations"]), found["next_after"]) == (51, None)
    paged = await site.plane.call("GET", f"{LINK}/expectations", limit=40)
    rest = await site.plane.call("GET", f"{LINK}/expectations", limit=40, after=paged["next_after"])
    assert [*paged["expectations"], *rest["expectations"]] == found["expectations"]


async def test_operators_are_paged_and_filtered(admin: Tab, site: Site) -> None:
    for number in range(52):
        body = {"name": f"robot-{number:02}", "role": "viewer"}
        await site.plane.call("POST", "/operators", body, status=201)
    await site.plane.call("POST", "/operators/robot-07/revoke")
    page = admin.page
    await admin.open("/operators")
    await expect(rows(page)).to_have_count(50)
    await page.get_by_role("link", name="Next page").click()
    await expect(rows(page)).to_have_count(4)  # ann and vic with them
    await admin.check()
    await page.get_by_label("Find").fill("robot-0")
    await page.get_by_role("button", name="Filter").click()
    await expect(rows(page)).to_have_count(10)
    await page.get_by_label("State").select_option("revoked")
    await expect(rows(page)).to_have_count(1)
    await expect(rows(page)).to_contain_text(["robot-07"])
    assert "find=robot-0&state=revoked" in page.url
    await admin.check()
    await check_commands(admin)
    names = [one["name"] for one in (await site.plane.call("GET", "/operators"))["operators"]]
    assert len(names) == 54
    first = await site.plane.call("GET", "/operators", limit=30, is_active=True)
    rest = await site.plane.call("GET", "/operators", limit=30, is_active=True, after=first["next_after"])
    assert [one["name"] for one in (*first["operators"], *rest["operators"])] == [
        one for one in names if one != "robot-07"
    ]


async def test_tokens_are_paged_and_filtered(admin: Tab, api: FakeAdminApi) -> None:
    for number in range(60):
        name = f"tk{number:02}abcdefgh".translate(str.maketrans("0189", "wxyz"))
        state = TokenState.REVOKED if number % 2 else TokenState.ACTIVE
        api.tokens[name] = admin_api.token(name, name=f"site-{number:02}", state=state)
    page = admin.page
    await admin.open(f"{BASE}/tokens")
    await expect(rows(page)).to_have_count(50)
    await page.get_by_role("link", name="Next page").click()
    await expect(rows(page)).to_have_count(10)
    await admin.check()
    await page.get_by_label("State").select_option("active")
    await expect(rows(page)).to_have_count(30)
    await page.get_by_label("Find").fill("site-1")
    await page.get_by_role("button", name="Filter").click()
    await expect(rows(page)).to_have_count(5)
    await expect(page.get_by_text("5 tokens of 60")).to_be_visible()
    await admin.check()


def report(status: ProbeStatus, details: str = "", remedy: str = "") -> ProbeReport:
    row = ProbeRow(check="endpoint", target="10.1.0.4:443", status=status, details=details, remedy=remedy)
    fine = ProbeRow(check="resolver", target="168.63.129.16", status=ProbeStatus.PASS, details="")
    return ProbeReport(url="https://plane", started_at=admin_api.NOW, status=status, rows=(fine, row))


async def test_what_agents_found_is_on_the_links_page_the_worst_first(
    viewer: Tab, api: FakeAdminApi, site: Site
) -> None:
    at = admin_api.NOW - timedelta(minutes=1)
    found = {
        "oslo-1": {"probe_report": report(ProbeStatus.PASS), "probe_reported_at": at},
        "oslo-2": {"probe_report": report(ProbeStatus.FAIL, "no answer", "Approve it."), "probe_reported_at": at},
        "oslo-3": {},
        "oslo-4": {"probe_report": report(ProbeStatus.WARN, "slow"), "probe_reported_at": at},
        "public": {"path": PathKind.PUBLIC, "probe_report": report(ProbeStatus.FAIL), "probe_reported_at": at},
    }
    for number, (name, more) in enumerate(found.items(), 1):
        api.agents[UUID(int=number)] = admin_api.agent(number, name=name, **{"path": PathKind.LINK, **more})
    await viewer.open(LINK)
    part = viewer.page.get_by_role("region", name="Verification")
    # Nobody waited for the deployment: its agents come as they are seen.
    await expect(rows(part)).to_contain_text(["oslo-2", "oslo-4", "oslo-3", "oslo-1"])
    await expect(rows(part).nth(0)).to_contain_text("endpoint: no answer")
    await expect(rows(part).nth(0)).to_contain_text("Approve it.")
    await expect(rows(part).nth(2)).to_contain_text("not verified")
    await expect(rows(part).nth(3)).to_contain_text("2 checks, nothing is wrong")
    await viewer.check()
    await check_commands(viewer)
    await part.get_by_role("link", name="oslo-2", exact=True).click()
    await expect(viewer.page.get_by_role("heading", name="oslo-2")).to_be_visible()
    await expect(viewer.page.get_by_role("row").filter(has_text="no answer")).to_be_visible()


async def test_the_whole_log_is_exported(site: Site, module_database: str) -> None:
    entries = 21_500
    async with Database(module_database) as database, database.begin() as connection:
        statement = text(
            "INSERT INTO isthmus_control.audit (operator, action, subject, after) SELECT 'flood', 'flood.' || "
            "(CASE WHEN n % 2 = 0 THEN 'even' ELSE 'odd' END), 'flood/' || n, jsonb_build_object('number', n) "
            "FROM generate_series(1, :entries) AS n"
        )
        await connection.execute(statement, {"entries": entries})
    http, _ = await signed_in(site, site.viewer)
    async with aclosing(http):
        answer = await http.get("/audit/export?format=csv&operator=flood")
        cells = list(csv.DictReader(io.StringIO(answer.text)))
        assert [int(one["subject"].partition("/")[2]) for one in cells] == list(range(entries, 0, -1))
        found = (await http.get("/audit/export?format=json&action=flood.even")).json()
        assert [one["after"]["number"] for one in found] == list(range(entries - entries % 2, 0, -2))
        assert (await http.get("/audit/export?format=json&operator=nobody")).json() == []
        whole = await http.get("/audit/export?format=json")
        assert len(json.loads(whole.text)) > entries
