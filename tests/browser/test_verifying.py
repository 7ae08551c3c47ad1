"""Verify, and agents' log tails: what is seen while it happens, and what is left for later."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from uuid import UUID

import pytest
import pytest_asyncio
from playwright.async_api import expect
from tests.browser.conftest import CLUSTER, LINK, OpenTab, Site, Tab
from tests.browser.test_pages import check_commands
from tests.fakes import admin_api
from tests.fakes.admin_api import FakeAdminApi
from tests.integration.control.test_control_links import ask

from isthmus.wire import admin
from isthmus.wire.probes import ProbeReport, ProbeRow, ProbeStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = f"/clusters/{CLUSTER}/deployments/dtest234"
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"
AGENT, SICK = UUID(int=1), UUID(int=2)
ROWS = (
    ProbeRow(check="name", target="the host", status=ProbeStatus.PASS, details="the host is 203.0.113.10"),
    ProbeRow(
        check="address",
        target="the host",
        status=ProbeStatus.FAIL,
        details="203.0.113.10 is public",
        remedy="Link the private zone to this network.",
    ),
    ProbeRow(check="tcp", target="203.0.113.10:443", status=ProbeStatus.SKIP, details="the name leads elsewhere"),
)


def report(rows: int, status: ProbeStatus, *, finished: bool = True) -> ProbeReport:
    return ProbeReport(
        url="https://host/dtest234", started_at=admin_api.NOW, status=status, rows=ROWS[:rows], finished=finished
    )


@pytest.fixture(scope="module")
def api() -> Iterator[FakeAdminApi]:
    with admin_api.serving() as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def deployment(site: Site, api: FakeAdminApi) -> AsyncIterator[None]:
    """Registered, with an agent that is healthy and, before it in the alphabet, one that is not."""
    for kept in (api.agents, api.verifications, api.verified_as, api.log_tails):
        kept.clear()
    api.ranges, api.report, api.log = (), None, ("started", "enrolled")
    api.agents[AGENT] = admin_api.agent(1, name="oslo-1")
    silent = {"health": admin.AgentHealth.UNHEALTHY, "last_heartbeat_at": admin_api.NOW - timedelta(minutes=2)}
    api.agents[SICK] = admin_api.agent(2, name="bergen-2", **silent)
    (site.tokens / "good").write_text(admin_api.TOKEN)
    body = {"servers": ["https://localhost:1"], "admin_url": api.url, "admin_token_reference": "good"}
    await site.plane.call("PUT", BASE, body)
    yield
    await site.plane.call("DELETE", BASE, status=204)


@pytest_asyncio.fixture(loop_scope="module")
async def admin_tab(site: Site, open_tab: OpenTab) -> Tab:
    return await open_tab(site.admin)


def come(api: FakeAdminApi, found: ProbeReport | None, **changes: object) -> None:
    """What the agent has sent by now."""
    present = api.verifications[admin_api.ORDER]
    order = admin.ProbesRequest(ordered_by=present.ordered_by or "", connection=present.connection)
    api.verifications[admin_api.ORDER] = admin_api.verification(api.agents[AGENT], order, found, **changes)


async def test_rows_appear_as_they_come_and_the_first_failure_is_on_top(admin_tab: Tab, api: FakeAdminApi) -> None:
    page = admin_tab.page
    await admin_tab.open(f"{BASE}/verify")
    offered = await page.get_by_label("Agent", exact=True).locator("option").all_inner_texts()
    assert [text.partition(" ")[0] for text in offered] == ["oslo-1", "bergen-2"], "healthy ones first"
    await admin_tab.check()
    await check_commands(admin_tab)
    await page.get_by_role("button", name="Verify now").click()
    await page.wait_for_url(f"**/verify/{admin_api.ORDER}")
    await expect(page.get_by_text("with its next heartbeat")).to_be_visible()
    assert api.verifications[admin_api.ORDER].ordered_by == "ann"
    come(api, report(1, ProbeStatus.PASS, finished=False))
    line = page.get_by_role("row").filter(has_text="the host is 203.0.113.10")
    await expect(line).to_contain_text("PASS", timeout=3000)
    await expect(line).to_contain_text("Does the cluster's name exist there?")
    await expect(page.get_by_text("1 check so far")).to_be_visible()
    come(api, report(2, ProbeStatus.FAIL, finished=False))
    await expect(page.get_by_text("The way fails at address: 203.0.113.10 is public.")).to_be_visible(timeout=3000)
    await expect(page.get_by_text("What to do: Link the private zone to this network.")).to_be_visible()
    come(api, report(3, ProbeStatus.FAIL))
    skipped = page.get_by_role("row").filter(has_text="SKIP")
    await expect(skipped).to_be_visible(timeout=3000)
    badge, line = await skipped.locator(".badge").bounding_box(), await skipped.bounding_box()
    assert badge is not None
    assert line is not None
    assert line["y"] <= badge["y"] < line["y"] + line["height"], "what is skipped is said on its line"
    await expect(page.get_by_text("so far")).to_have_count(0)
    await admin_tab.check()
    await check_commands(admin_tab)
    await admin_tab.open(f"{BASE}/verify")
    row = page.get_by_role("row").filter(has_text="oslo-1")
    await expect(row).to_contain_text("address: 203.0.113.10 is public")
    await expect(row).to_contain_text("ann")
    await row.get_by_role("link").click()
    await page.wait_for_url(f"**/verify/{admin_api.ORDER}")


async def test_what_it_should_find_is_chosen(admin_tab: Tab, api: FakeAdminApi) -> None:
    page = admin_tab.page
    await admin_tab.open(f"{BASE}/verify?agent={SICK}")
    await expect(page.get_by_label("Agent", exact=True)).to_have_value(str(SICK))
    await page.get_by_text("What it should find").click()
    await page.get_by_label("The endpoint's private address").fill("10.1.0.x")
    await page.get_by_role("button", name="Verify now").click()
    await expect(page.get_by_role("alert")).to_contain_text("endpoint")
    await expect(page.get_by_label("The endpoint's private address")).to_have_value("10.1.0.x")
    await page.get_by_label("The endpoint's private address").fill("10.1.0.4")
    await page.get_by_label("The cluster's public addresses").fill("203.0.113.80")
    await page.get_by_role("button", name="Verify now").click()
    await page.wait_for_url(f"**/verify/{admin_api.ORDER}")
    found = api.verifications[admin_api.ORDER]
    assert (str(found.endpoint), found.public_allowed, found.agent_id) == ("10.1.0.4", False, SICK)
    assert [str(one) for one in found.public_addresses] == ["203.0.113.80"]


async def test_an_order_that_nobody_answers_says_why(admin_tab: Tab, api: FakeAdminApi) -> None:
    page = admin_tab.page
    await admin_tab.open(f"{BASE}/agents/{AGENT}")
    await page.get_by_role("button", name="Verify its way").click()
    await page.wait_for_url(f"**/verify/{admin_api.ORDER}")
    reason, hint = "The agent is not heard of: it did not heartbeat.", "Run isthmus verify on its host."
    come(api, None, state=admin.VerificationState.UNANSWERED, reason=reason, hint=hint)
    await expect(page.get_by_text(f"There is no answer: {reason}")).to_be_visible(timeout=3000)
    await expect(page.get_by_text(hint)).to_be_visible()
    await admin_tab.check()
    await admin_tab.open(f"{BASE}/verify")
    await expect(page.get_by_role("row").filter(has_text="unanswered")).to_contain_text(reason)


async def test_the_history_is_paged_and_of_one_agent(admin_tab: Tab, api: FakeAdminApi) -> None:
    for number in range(25):
        order = UUID(int=1000 + number)
        api.verifications[order] = admin_api.verification(
            api.agents[AGENT if number % 5 else SICK],
            admin.ProbesRequest(),
            report(1, ProbeStatus.PASS),
            verification_id=order,
            ordered_at=admin_api.NOW - timedelta(minutes=number),
        )
    page = admin_tab.page
    await admin_tab.open(f"{BASE}/verify")
    await expect(page.get_by_role("row")).to_have_count(21)
    await page.get_by_role("link", name="Next page").click()
    await expect(page.get_by_role("row")).to_have_count(6)
    await admin_tab.open(f"{BASE}/agents/{SICK}")
    await page.get_by_role("link", name="What it found before").click()
    await expect(page.get_by_role("heading", name="What bergen-2 found before")).to_be_visible()
    await expect(page.get_by_role("row")).to_have_count(6)


async def test_a_log_tail_appears_by_itself_and_is_text(admin_tab: Tab, api: FakeAdminApi, site: Site) -> None:
    page = admin_tab.page
    api.log = None
    await admin_tab.open(f"{BASE}/agents/{AGENT}")
    await expect(page.get_by_text("Nobody has asked for it in the last hour.")).to_be_visible()
    await page.get_by_role("button", name="Show log tail").click()
    await expect(page.get_by_text("ann has asked for it: it comes with the next heartbeat.")).to_be_visible()
    lines = ("enrolled", SCRIPT, "\\x1b[2Jcleared")
    sent = {"received_at": admin_api.NOW, "lines": lines}
    api.log_tails[AGENT] = api.log_tails[AGENT].model_copy(update=sent)
    shown = page.get_by_label("The end of the agent's log")
    await expect(shown).to_contain_text("enrolled", timeout=3000)
    assert (await shown.inner_text()).splitlines() == list(lines)
    assert await page.title() != "taken"
    await admin_tab.check()
    await check_commands(admin_tab)
    audit = await site.plane.call("GET", "/audit?action=agent.log")
    assert "oslo-1" in str(audit)


async def test_viewers_look_and_do_not_ask(site: Site, api: FakeAdminApi, open_tab: OpenTab) -> None:
    api.verifications[admin_api.ORDER] = admin_api.verification(
        api.agents[AGENT].model_copy(update={"name": SCRIPT}),
        admin.ProbesRequest(ordered_by=SCRIPT),
        report(3, ProbeStatus.FAIL),
    )
    tab = await open_tab(site.viewer, color_scheme="dark", viewport={"width": 390, "height": 800})
    await tab.open(f"{BASE}/verify")
    await expect(tab.page.get_by_role("row").filter(has_text="203.0.113.10 is public")).to_be_visible()
    await expect(tab.page.get_by_role("button", name="Verify now")).to_have_count(0)
    await tab.check()
    await tab.open(f"{BASE}/verify/{admin_api.ORDER}")
    await expect(tab.page.get_by_text("The way fails at address")).to_be_visible()
    assert await tab.page.title() != "taken"
    await tab.check()
    await tab.open(f"{BASE}/agents/{AGENT}")
    await expect(tab.page.get_by_role("button", name="Show log tail")).to_have_count(0)
    await tab.check()


async def test_without_an_agent_the_page_says_what_else_looks(admin_tab: Tab, api: FakeAdminApi) -> None:
    api.agents.clear()
    hint = admin_tab.page.get_by_text("isthmus verify --url https://")
    async with asyncio.timeout(20):  # what was seen of the agents is some seconds old
        while not await hint.is_visible():
            await admin_tab.open(f"{BASE}/verify")
    await admin_tab.check()


async def test_a_connection_of_the_link_is_named_with_its_state(admin_tab: Tab, api: FakeAdminApi, site: Site) -> None:
    await asyncio.to_thread(ask, site.scene, site.alias, "to-be-verified")
    await site.plane.until(f"{LINK}/connections", lambda found: "to-be-verified" in str(found))
    page = admin_tab.page
    await admin_tab.open(f"{BASE}/verify")
    await page.get_by_text("What it should find").click()
    choice = page.get_by_label("Private endpoint")
    await choice.select_option(label="to-be-verified: pending")
    await page.get_by_role("button", name="Verify now").click()
    await page.wait_for_url(f"**/verify/{admin_api.ORDER}")
    connection = api.verifications[admin_api.ORDER].connection
    assert connection is not None
    assert (connection.endpoint, connection.state) == ("to-be-verified", "pending")
    await expect(page.get_by_text("endpoint to-be-verified, pending")).to_be_visible()
