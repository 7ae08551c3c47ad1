"""The web pages before the real thing: control plane over TLS, deployment, ingress, lab, agents and tasks.

What an operator does here is done by clicking, and what happens is seen twice: on the page, which is not loaded again
for it, and where it happens. The tests of this file follow each other, like somebody's first day.
"""

import re
import shlex
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import expect
from tests.fakes.link_scene import HOST

from faults.harness import endings, waits
from faults.harness.planes import Plane
from faults.harness.runs import Run
from isthmus.wire.names import PathKind
from network.link.customers import ENDPOINT, Customer, NetworkAgent
from network.link.desks import Desk, chromium
from network.link.provider import CIDR, Provider

#: From the click on Approve to the agent's row on the page, as it comes through the link.
LIMIT_SECONDS = 10
DEPLOYMENT = f"/clusters/{HOST.cluster_id}/deployments/{Plane.deployment_id}"


@pytest.fixture(scope="module")
def desk(provider: Provider) -> Iterator[Desk]:
    with chromium() as browser:
        desk = Desk(provider, browser)
        yield desk
    assert desk.complaints == []


@pytest.fixture(scope="module")
def here(provider: Provider) -> Customer:
    return Customer(provider, "desk")


@pytest.fixture(scope="module")
def agent(provider: Provider, desk: Desk, here: Customer) -> Iterator[NetworkAgent]:
    """An agent that has nothing but what the pages say: a token that is shown once, and an environment file."""
    page = desk.open(f"{DEPLOYMENT}/tokens")
    if not page.get_by_label("Name").is_visible():  # the form is open while there is no token
        page.get_by_text("Create a token").click()
    page.get_by_label("Name").fill("desk")
    page.get_by_role("button", name="Create", exact=True).click()
    secret = page.locator(".once code").inner_text()
    page.get_by_role("link", name="Register a remote agent").click()
    page.get_by_label("Name").fill("desk-1")
    page.get_by_label("Queues").fill("desk")
    page.get_by_label("Slots").fill("2")
    page.get_by_role("button", name="Fill in").click()
    said = dict(
        shlex.split(line)[0].split("=", 1)
        for line in page.get_by_label("Environment file").inner_text().splitlines()
        if line
    )
    assert said.pop("ISTHMUS_AGENT_TOKEN_FILE") == "/etc/isthmus/agent.token"
    assert said.pop("ISTHMUS_AGENT_RUNNER_ENVIRONMENT_FILE") == "/etc/isthmus/task-environment"
    assert said["ISTHMUS_AGENT_URL"] == provider.deployment.url
    agent = NetworkAgent(here, "desk", name="desk-1", token=secret, settings=said)
    yield agent
    agent.close()


def test_the_cookie_is_bound_to_this_host_and_to_tls(desk: Desk) -> None:
    session = [one for one in desk.context.cookies() if one["name"].startswith("__Host-")]
    assert session
    assert all(one["secure"] and one["httpOnly"] and one["path"] == "/" for one in session)


def test_an_agent_that_is_started_as_the_page_says_appears_on_it(desk: Desk, agent: NetworkAgent) -> None:
    desk.open(f"{DEPLOYMENT}/agents")
    agent.start()
    row = desk.row("desk-1")
    expect(row).to_contain_text("healthy", timeout=10_000)
    expect(row).to_contain_text("public")
    expect(row).to_contain_text("0 of 2")


def test_a_newcomer_lets_a_pending_endpoint_in(
    desk: Desk, provider: Provider, here: Customer, agent: NetworkAgent
) -> None:
    agent.await_path(PathKind.PUBLIC)
    desk.open("/overview")
    creating = here.start_endpoint(*here.create_words())
    provider.connection(here.endpoint_id, "pending")
    trouble = desk.trouble(f"Endpoint {here.name}/{ENDPOINT}")
    expect(trouble).to_contain_text("waits for a decision")
    trouble.get_by_role("link").click()
    desk.page.get_by_label("Reason").first.fill("ticket 7")
    desk.page.get_by_role("button", name="Approve").click()
    approved_at = time.monotonic()
    desk.open(f"{DEPLOYMENT}/agents")
    link = re.compile(rf"link {here.link_id()}")
    expect(desk.row("desk-1")).to_contain_text(link, timeout=LIMIT_SECONDS * 1000)
    seconds = time.monotonic() - approved_at
    print(f"{seconds:.1f} s from the click on Approve until the page shows the agent on the link")
    assert seconds < LIMIT_SECONDS
    assert creating.communicate(timeout=60) is not None
    assert creating.returncode == 0
    desk.open(f"/audit?subject=connection/{provider.connection(here.endpoint_id, 'approved')['connection_id']}")
    expect(desk.row("approve").first).to_contain_text("ann")


def test_an_agent_verifies_its_way_when_it_is_asked_by_a_click(desk: Desk, agent: NetworkAgent) -> None:
    desk.open(f"{DEPLOYMENT}/agents")
    desk.row("desk-1").get_by_role("link", name="desk-1").click()
    desk.page.get_by_role("button", name=re.compile("Verify")).first.click()
    desk.page.wait_for_url("**/verify/*")
    for check in ("TCP", "TLS", "Token", "Heartbeat"):
        expect(desk.page.get_by_role("row").filter(has_text=re.compile(check, re.IGNORECASE)).first).to_be_visible(
            timeout=30_000
        )
    expect(desk.page.get_by_text("finished")).to_be_visible(timeout=30_000)
    desk.open(f"{DEPLOYMENT}/verify")
    expect(desk.row("desk-1").first).to_contain_text("ann")


def test_the_end_of_an_agents_log_appears_within_a_heartbeat(desk: Desk, agent: NetworkAgent) -> None:
    page = desk.open(f"{DEPLOYMENT}/agents")
    desk.row("desk-1").get_by_role("link", name="desk-1").click()
    page.get_by_role("button", name="Show log tail").click()
    asked_at = time.monotonic()
    expect(page.get_by_label("The end of the agent's log")).to_contain_text("enrolled", timeout=15_000)
    print(f"{time.monotonic() - asked_at:.1f} s until the page showed the log tail")


def test_work_is_seen_as_it_runs(desk: Desk, agent: NetworkAgent) -> None:
    desk.open(f"{DEPLOYMENT}/queues")
    run = Run(agent.plane, agent.lane)
    run.await_starts(agent.slots)
    expect(desk.row("desk").first).to_contain_text("2 of 2", timeout=10_000)
    desk.open(f"{DEPLOYMENT}/workloads?queue=desk")
    expect(desk.row("running")).to_have_count(agent.slots)
    run.open_gate()
    expect(desk.row("succeeded").first).to_be_visible(timeout=30_000)
    endings.assert_all_well(run, agent, tries=1)


def test_a_cordoned_agent_gets_no_work_until_it_is_uncordoned(desk: Desk, agent: NetworkAgent) -> None:
    desk.open(f"{DEPLOYMENT}/agents")
    desk.page.get_by_role("button", name="Cordon desk-1").click()
    expect(desk.row("desk-1")).to_contain_text("cordoned")
    waits.until("the agent knows", lambda: "cordoned" in str(agent.health()), seconds=15, evidence=agent.evidence)
    run = Run(agent.plane, agent.lane, gated=False, seconds=0)
    desk.open(f"{DEPLOYMENT}/queues")
    expect(desk.row("desk").filter(has_text="nobody")).to_be_visible(timeout=20_000)
    assert not run.ledger.starts()
    desk.open(f"{DEPLOYMENT}/agents")
    desk.page.get_by_role("button", name="Uncordon desk-1").click()
    endings.assert_all_well(run, agent, tries=1)


def test_only_the_private_range_is_one_click_and_a_confirmation(
    desk: Desk, provider: Provider, here: Customer, agent: NetworkAgent
) -> None:
    agent.await_path(PathKind.LINK, here.link_id())
    with provider.unrestricted_afterwards():
        page = desk.open(f"{DEPLOYMENT}/access")
        page.get_by_role("link", name="Only the cluster's private range").click()
        expect(page.get_by_role("heading", name=f"Only {CIDR}")).to_be_visible()
        page.get_by_role("button", name="Put it in force").click()
        expect(page.get_by_text(f"Only {CIDR} may come in now.")).to_be_visible()
        agent.await_path(PathKind.LINK, here.link_id())
        outside = Customer(provider, "outside", "10.9")
        stranger = NetworkAgent(outside, "outside")
        stranger.start(ready=False)
        try:
            # An agent that never got in: its address is the reason, two clicks from the overview.
            desk.open("/overview")
            desk.trouble("The door of").get_by_role("link").click()
            expect(desk.row("source_not_allowed").first).to_contain_text("still knocks")
        finally:
            stranger.close()


@pytest.mark.parametrize("code", ["token_wrong_link", "token_wrong_deployment", "token_invalid"])
def test_why_an_agent_is_refused_is_one_click_from_the_overview(
    desk: Desk, provider: Provider, here: Customer, code: str
) -> None:
    good = provider.token("bound", links=[1]) if code == "token_wrong_link" else provider.token(code)
    token = {
        "token_wrong_link": good,
        "token_wrong_deployment": good.replace(Plane.deployment_id, "dother23"),
        "token_invalid": "_".join([*good.split("_")[:3], "x" * 43]),
    }[code]
    desk.open("/overview")
    refused, rows = here.verify(token)
    assert refused == 1, rows
    desk.trouble("The door of").get_by_role("link").click()
    row = desk.row(code).first
    expect(row).to_contain_text(f"endpoint {here.name}/{ENDPOINT}", timeout=10_000)
    expect(row.locator(".hint")).not_to_be_empty()


def test_an_agent_whose_connection_is_rejected_is_red_and_says_so(
    desk: Desk, provider: Provider, here: Customer, agent: NetworkAgent
) -> None:
    connection = provider.connection(here.endpoint_id, "approved")["connection_id"]
    page = desk.open(f"/clusters/{HOST.cluster_id}/link/connections/{connection}")
    form = page.locator("form").filter(has=page.get_by_role("button", name="Reject"))
    form.get_by_label("Reason").fill("contract ended")
    form.get_by_role("button", name="Reject").click()
    desk.open("/overview")
    trouble = desk.trouble("Agent desk-1")
    expect(trouble).to_contain_text("was rejected by ann: contract ended")
    trouble.get_by_role("link").click()
    expect(desk.page.get_by_text("connection_rejected")).to_be_visible()
    here.endpoint("delete")
    agent.await_path(PathKind.PUBLIC)


def test_a_drained_agent_leaves_and_is_removed(desk: Desk, agent: NetworkAgent) -> None:
    desk.open(f"{DEPLOYMENT}/agents")
    desk.page.get_by_role("button", name="Drain desk-1").click()
    waits.until("the agent has ended", lambda: not agent.control.running, seconds=30, evidence=agent.evidence)
    expect(desk.row("desk-1")).to_contain_text("left", timeout=20_000)
    desk.page.get_by_role("button", name="Remove desk-1").click()
    expect(desk.page.get_by_text("The agent is off the roster.")).to_be_visible()
    expect(desk.row("desk-1")).to_have_count(0)
    assert agent.view() is None
