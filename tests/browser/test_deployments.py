"""A deployment's pages, on a control plane that asks an admin API over HTTP."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

import jsonschema
import pytest
import pytest_asyncio
import yaml
from playwright.async_api import expect
from tests.browser.conftest import CLUSTER, OpenTab, Site, Tab
from tests.browser.test_pages import check_commands
from tests.fakes import admin_api
from tests.fakes.admin_api import FakeAdminApi

from isthmus.wire import admin
from isthmus.wire.names import PathKind
from isthmus.wire.probes import ProbeReport, ProbeRow, ProbeStatus

pytestmark = pytest.mark.asyncio(loop_scope="module")

BASE = f"/clusters/{CLUSTER}/deployments/dtest234"
#: What somebody who was let in could try: each of these is a text of an agent's, a customer's or a DAG's.
SCRIPT = "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"

CHART = Path(__file__).parents[2] / "deploy/helm/isthmus-agent"
AGENT, SICK = UUID(int=1), UUID(int=2)


@pytest.fixture(scope="module")
def api() -> Iterator[FakeAdminApi]:
    with admin_api.serving() as fake:
        yield fake


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def deployment(site: Site, api: FakeAdminApi) -> AsyncIterator[None]:
    """Registered, with a healthy agent on the link, and one on the public path that is silent."""
    api.agents.clear()
    api.tokens.clear()
    api.workloads.clear()
    api.instead.clear()
    api.queues.clear()
    api.bundles.clear()
    api.refused_bundles.clear()
    api.triggerers.clear()
    api.waiting_triggers.clear()
    api.held_centrally = 0
    api.hour.clear()
    api.ranges, api.report, api.restriction = (), None, admin.RestrictionOutcome.RESTRICTED
    api.cut_off = (1,)
    api.agents[AGENT] = admin_api.agent(1, name="oslo-1", path=PathKind.LINK, link_id=268435747)
    silent = {"health": admin.AgentHealth.UNHEALTHY, "last_heartbeat_at": admin_api.NOW - timedelta(minutes=2)}
    api.agents[SICK] = admin_api.agent(2, name="bergen-2", warnings=(admin_api.warning("It is late."),), **silent)
    api.tokens["abcdefghijkl"] = admin_api.token("abcdefghijkl")
    (site.tokens / "good").write_text(admin_api.TOKEN)
    body = {"servers": ["https://localhost:1"], "admin_url": api.url, "admin_token_reference": "good"}
    await site.plane.call("PUT", BASE, body)
    yield
    await site.plane.call("DELETE", BASE, status=204)


async def test_each_page_is_fit_for_everybody(site: Site, api: FakeAdminApi, open_tab: OpenTab) -> None:
    found = admin_api.workload(1)
    api.workloads[found.workload_id] = found
    api.bundles = [admin_api.bundle("orphan", agent_name=None), admin_api.bundle("sales", refused_file=SCRIPT)]
    api.refused_bundles = [admin_api.refused_bundle("finance")]
    api.triggerers = [admin_api.triggerer("edge-1.triggerer"), admin_api.triggerer("edge-2.triggerer", takes=False)]
    api.waiting_triggers = [admin_api.waiting_triggers(3)]
    for token, options in ((site.admin, {"viewport": {"width": 390, "height": 800}}), (site.viewer, {})):
        tab = await open_tab(token, color_scheme="dark", **options)
        for path in (
            "/overview",
            "/deployments",
            BASE,
            f"{BASE}/agents",
            f"{BASE}/agents?health=healthy",
            f"{BASE}/agents/{SICK}",
            f"{BASE}/agents/register?name=oslo-9",
            f"{BASE}/tokens",
            f"{BASE}/queues",
            f"{BASE}/bundles",
            f"{BASE}/triggers",
            f"{BASE}/workloads",
            f"{BASE}/workloads/{found.workload_id}",
            f"{BASE}/access",
            f"{BASE}/access?to=cluster",
        ):
            await tab.open(path)
            await expect(tab.page.get_by_role("heading", level=1)).to_have_count(1)
            await tab.check()
            await check_commands(tab)


async def test_why_an_agent_is_unhealthy_is_two_clicks_from_the_overview(viewer: Tab) -> None:
    await viewer.open("/overview")
    trouble = viewer.page.get_by_role("listitem").filter(has_text="bergen-2")
    await expect(trouble).to_contain_text("no heartbeat for")
    await trouble.get_by_role("link").click()
    await expect(viewer.page.get_by_text("heartbeat_missing")).to_be_visible()
    await expect(viewer.page.get_by_text("It is late.")).to_be_visible()
    await viewer.check()


async def test_queues_that_nobody_serves_are_first_and_the_hour_is_drawn(admin: Tab, api: FakeAdminApi) -> None:
    await admin.open(f"{BASE}/queues")
    await expect(admin.page.get_by_text("No queue yet")).to_be_visible()
    await expect(admin.page.get_by_role("img", name="No workload ended in the last hour.")).to_be_visible()
    nobody = {"agents": (), "agents_count": 0, "slots": 0}
    api.queues = [
        admin_api.queue("gpu", queued=3, oldest_queued_seconds=41.0, **nobody),
        admin_api.queue("default", running=2, slots_used=2, agents_count=25),
    ]
    api.hour = {0: (7, 2), 30: (1, 0)}
    first = admin.page.get_by_role("row").nth(1)  # as it comes, without a reload
    await expect(first).to_contain_text("gpu", timeout=10_000)
    await expect(first).to_contain_text("nobody")
    await expect(first).to_contain_text("--queues gpu")
    await expect(admin.page.get_by_role("row").nth(2)).to_contain_text("oslo-1 and 24 more")
    plot = admin.page.get_by_role("img", name=re.compile("8 succeeded, 2 failed, 0 were lost"))
    await expect(plot).to_be_visible()
    assert await admin.page.locator("rect.plot-good").count() == 2
    assert await admin.page.locator("rect.plot-bad").count() == 1
    await admin.check()
    await admin.page.get_by_role("link", name="gpu").click()
    await expect(admin.page.get_by_label("Queue")).to_have_value("gpu")


async def test_bundles_say_who_parses_them_and_what_was_refused(admin: Tab, api: FakeAdminApi) -> None:
    await admin.open(f"{BASE}/bundles")
    await expect(admin.page.get_by_text("No DAG bundle yet")).to_be_visible()
    await expect(admin.page.locator("[data-cli]")).to_contain_text("isthmus bundles list")
    api.bundles = [
        admin_api.bundle("orphan", agent_name=None, agents=("edge-9.dag-processor",)),
        admin_api.bundle(
            "sales",
            agents=("edge-1.dag-processor", "edge-2.dag-processor"),
            refused_file="etl/fiscal.py",
            refused_detail="the plane lacks acme.Fiscal",
        ),
        admin_api.bundle("third"),
    ]
    api.refused_bundles = [admin_api.refused_bundle("finance")]
    rows = admin.page.get_by_role("row")
    await expect(rows.nth(1)).to_contain_text("orphan", timeout=10_000)  # as it comes, without a reload
    await expect(rows.nth(1)).to_contain_text("nobody")
    await expect(rows.nth(1)).to_contain_text("Start edge-9.dag-processor, or let it take work again")
    await expect(rows.nth(2)).to_contain_text("edge-2.dag-processor would take over")
    await expect(rows.nth(2)).to_contain_text("etl/fiscal.py: the plane lacks acme.Fiscal")
    await expect(rows.filter(has_text="finance")).to_contain_text("is for the bundles sales_*")
    await admin.check()
    await admin.open(f"{BASE}/bundles")
    await admin.page.get_by_role("link", name="Next page").click()
    await expect(admin.page.get_by_role("rowheader", name="third")).to_be_visible()
    await admin.page.get_by_role("link", name="Back to the first page").click()
    await expect(admin.page.get_by_role("rowheader", name="orphan")).to_be_visible()


async def test_triggers_that_nobody_runs_are_told_apart(admin: Tab, api: FakeAdminApi) -> None:
    await admin.open(f"{BASE}/triggers")
    await expect(admin.page.get_by_text("No agent runs triggers")).to_be_visible()
    await expect(admin.page.locator("[data-cli]")).to_contain_text("isthmus triggers list")
    api.triggerers = [
        admin_api.triggerer("oslo-1", agent_id=AGENT, held=1000),
        admin_api.triggerer("edge-2.triggerer", takes=False),
    ]
    api.waiting_triggers = [
        admin_api.waiting_triggers(3),
        admin_api.waiting_triggers(1, kind="asset", queue=None, bundles=(), triggerers=2),
    ]
    api.held_centrally = 4
    rows = admin.page.get_by_role("row")
    await expect(rows.nth(1)).to_contain_text("full", timeout=10_000)  # as it comes, without a reload
    await expect(rows.nth(2)).to_contain_text("250 of 1000")
    await expect(rows.nth(4)).to_contain_text("nobody")
    await expect(rows.nth(4)).to_contain_text("--role triggerer --queues gpu")
    await expect(rows.nth(5)).to_contain_text("2 triggerers")
    await expect(admin.page.get_by_text("Airflow's own holds 4 triggers")).to_be_visible()
    await admin.check()
    await admin.page.get_by_role("link", name="oslo-1").click()
    await expect(admin.page).to_have_url(re.compile(f"/agents/{AGENT}$"))


async def test_an_agent_is_cordoned_and_the_page_follows(admin: Tab, viewer: Tab, api: FakeAdminApi) -> None:
    await viewer.open(f"{BASE}/agents")
    watched = viewer.page.get_by_role("row").filter(has_text="oslo-1")
    await expect(watched).to_contain_text("healthy")
    await expect(viewer.page.get_by_role("button", name="Cordon")).to_have_count(0)
    await admin.open(f"{BASE}/agents")
    await admin.page.get_by_role("button", name="Cordon oslo-1").click()
    await expect(admin.page.get_by_role("status").filter(has_text="gets no new work")).to_be_visible()
    assert api.agents[AGENT].cordoned
    await expect(watched).to_contain_text("cordoned")
    await admin.page.get_by_role("button", name="Uncordon oslo-1").click()
    await expect(admin.page.get_by_role("status").filter(has_text="gets work again")).to_be_visible()
    await expect(watched).not_to_contain_text("cordoned")


async def test_an_agent_verifies_and_its_rows_appear(admin: Tab, api: FakeAdminApi) -> None:
    seen = {"target": "the host", "details": "203.0.113.10 is public", "remedy": "Link the zone."}
    rows = (ProbeRow(check="name", status=ProbeStatus.FAIL, **seen),)
    began = admin_api.NOW
    api.report = ProbeReport(url="https://host/dtest234", started_at=began, status=ProbeStatus.FAIL, rows=rows)
    await admin.open(f"{BASE}/agents/{AGENT}")
    await expect(admin.page.get_by_text("It has not verified its way yet.")).to_be_visible()
    await admin.page.get_by_role("button", name="Verify its way").click()
    line = admin.page.get_by_role("row").filter(has_text="203.0.113.10 is public")
    await expect(line).to_contain_text("Link the zone.")
    await admin.check()


async def test_a_token_is_made_shown_once_and_revoked(admin: Tab, api: FakeAdminApi, site: Site) -> None:
    page = admin.page
    await admin.open(f"{BASE}/tokens")
    await page.get_by_text("Create a token").click()
    await page.get_by_label("Name").fill("site-bergen")
    await page.get_by_label("Days until it expires").fill("4000")
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_role("alert")).to_contain_text("expires_days")
    await expect(page.get_by_label("Name")).to_have_value("site-bergen")
    await page.get_by_label("Days until it expires").fill("30")
    await page.get_by_role("button", name="Create", exact=True).click()
    await expect(page.get_by_text("isthmus_dtest234_newtokenidaa_s3cret")).to_be_visible()
    await admin.check()
    await page.get_by_role("link", name="I have copied it").click()
    row = page.get_by_role("row").filter(has_text="newtokenidaa")
    await expect(row).to_contain_text("site-bergen")
    assert "s3cret" not in await page.content()
    assert "s3cret" not in str(await site.plane.call("GET", "/audit"))
    await row.get_by_text("Revoke").first.click()
    await row.get_by_role("button", name="Revoke site-bergen").click()
    await expect(page.get_by_text("opens nothing any more")).to_be_visible()
    assert api.tokens["newtokenidaa"].state is admin_api.admin.TokenState.REVOKED


async def test_who_would_be_cut_off_is_shown_before_it_is_done(admin: Tab, api: FakeAdminApi) -> None:
    page = admin.page
    await admin.open(f"{BASE}/access")
    await page.get_by_role("link", name="Only the cluster's private range").click()
    await expect(page).to_have_url(re.compile(r"to=cluster$"))
    await expect(page.get_by_role("status").filter(has_text="1 agent would be cut off")).to_contain_text("agent-1")
    assert api.ranges == (), "looking has changed something"
    await page.get_by_role("button", name="Put it in force").click()
    await expect(page.get_by_text("Only 10.1.0.0/16 may come in now.")).to_be_visible()
    assert api.ranges == ("10.1.0.0/16",)
    await admin.check()

    await page.get_by_label("Other ranges").fill("10.1.0.0/16\nnonsense")
    await page.get_by_role("button", name="Show what it would do").click()
    await expect(page.get_by_role("alert")).to_contain_text("nonsense")
    await admin.open(f"{BASE}/access")
    await page.get_by_text("Let every address in").first.click()
    await page.get_by_role("button", name="Let every address in").click()
    await expect(page.get_by_text("Every address may come in now.")).to_be_visible()
    assert api.ranges == ()


async def test_nobody_is_cut_off_who_was_not_shown(admin: Tab, api: FakeAdminApi) -> None:
    page = admin.page
    await admin.open(f"{BASE}/access?to=cluster")
    await expect(page.get_by_role("heading", name="1 agent would be cut off")).to_be_visible()
    api.cut_off = (1, 3)  # another one has come in from elsewhere
    await page.get_by_role("button", name="Put it in force").click()
    await expect(page.get_by_role("alert")).to_contain_text("plan_changed")
    assert api.ranges == ()
    await expect(page.get_by_role("heading", name="2 agents would be cut off")).to_be_visible()
    await admin.check()
    api.cut_off = (3,)  # fewer than were shown is fine
    await page.get_by_role("button", name="Put it in force").click()
    await expect(page.get_by_text("Only 10.1.0.0/16 may come in now.")).to_be_visible()


async def test_the_guard_is_shown_and_can_be_forced(admin: Tab, api: FakeAdminApi) -> None:
    api.restriction = admin_api.admin.RestrictionOutcome.REFUSED
    await admin.open(f"{BASE}/access?to=cluster")
    await expect(admin.page.get_by_text("That would be refused")).to_be_visible()
    await admin.page.get_by_role("button", name="Put it in force").click()
    await expect(admin.page.get_by_role("alert")).to_contain_text("agents_cut_off")
    assert api.ranges == ()
    await admin.page.get_by_label("Force it").check()
    await admin.page.get_by_role("button", name="Put it in force").click()
    await expect(admin.page.get_by_text("Only 10.1.0.0/16 may come in now.")).to_be_visible()


async def test_a_deployment_that_cannot_be_asked_says_why(admin: Tab, site: Site, api: FakeAdminApi) -> None:
    (site.tokens / "good").write_text("another")
    await asyncio.sleep(2.5)  # how it was seen last is fresh for two seconds
    for path in (BASE, f"{BASE}/agents", f"{BASE}/tokens", f"{BASE}/workloads", f"{BASE}/access"):
        await admin.open(path)
        await expect(admin.page.get_by_text("admin_refused")).to_be_visible()
        await admin.check()
    await admin.open("/overview")
    await expect(admin.page.get_by_role("listitem").filter(has_text="Deployment dtest234")).to_be_visible()


async def test_script_in_what_others_say_is_text(admin: Tab, api: FakeAdminApi) -> None:
    api.agents[AGENT] = admin_api.agent(
        1, name=SCRIPT[:128], labels={"site": SCRIPT}, queues=(SCRIPT,), warnings=(admin_api.warning(SCRIPT),)
    )
    api.tokens["abcdefghijkl"] = admin_api.token("abcdefghijkl", name=SCRIPT)
    found = admin_api.workload(1, dag_id=SCRIPT, task_id=SCRIPT, run_id=SCRIPT, detail=SCRIPT, agent_name=SCRIPT)
    api.workloads[found.workload_id] = found
    row = ProbeRow(check="name", target=SCRIPT, status=ProbeStatus.FAIL, details=SCRIPT, remedy=SCRIPT)
    report = ProbeReport(url=SCRIPT, started_at=admin_api.NOW, status=ProbeStatus.FAIL, rows=(row,))
    api.agents[AGENT] = api.agents[AGENT].model_copy(
        update={"probe_report": report, "probe_reported_at": admin_api.NOW}
    )
    await asyncio.sleep(2.5)
    for path in (
        "/overview",
        f"{BASE}/agents",
        f"{BASE}/agents/{AGENT}",
        f"{BASE}/tokens",
        f"{BASE}/workloads",
        f"{BASE}/workloads/{found.workload_id}",
        f"{BASE}/workloads?queue={SCRIPT}",
        f"{BASE}/agents?name={SCRIPT}",
        f"{BASE}/agents/register?name={SCRIPT}&queues={SCRIPT}",
    ):
        await admin.open(path)
        await admin.page.wait_for_timeout(1200)  # the live regions come in another way
        assert "taken" not in await admin.page.title()
        assert await admin.page.locator("img[src='x']").count() == 0, path
        await admin.check()


async def test_airflow_is_a_link_that_cannot_be_a_script(viewer: Tab, api: FakeAdminApi) -> None:
    await viewer.open(BASE)
    link = viewer.page.get_by_role("link", name="https://airflow.example.org")
    await expect(link).to_have_attribute("href", "https://airflow.example.org")
    await viewer.open("/operators")  # no live page of the deployment is open while it changes
    hostile = admin_api.deployment(api).model_dump(mode="json") | {"airflow_url": "javascript:alert(1)"}
    api.instead["/admin/v1/deployment"] = (200, "application/json", json.dumps(hostile).encode())
    await viewer.open(BASE)
    await expect(viewer.page.get_by_text("admin_answer_foreign")).to_be_visible()
    assert "javascript:" not in await viewer.page.content()


@pytest.mark.parametrize(
    "asked",
    [
        "",
        "?role=triggerer,worker",
        "?name=oslo-1&role=worker&queues=gpu,default&slots=16",
        "?name=a%0Aurl:%20x&queues=%22%0Aimage:%20y&slots=1%0Aurl:%20z",
    ],
)
async def test_the_values_of_the_chart_are_filled_in(viewer: Tab, asked: str) -> None:
    await viewer.open(f"{BASE}/agents/register{asked}")
    values = yaml.safe_load(await viewer.page.get_by_label("Helm values").inner_text())
    jsonschema.validate(values, json.loads((CHART / "values.schema.json").read_text()))
    assert values["url"].endswith("/dtest234")
    assert values["image"].startswith("registry.example.org/")
    if "gpu" in asked:
        assert (values["queues"], values["slots"]) == (["gpu", "default"], 16)
        assert values["token"] == {"secret": "oslo-1-token"}
    # Without a role it does all of them, and has to know where its DAG files are.
    assert values.get("role") == (None if "role=" not in asked else "worker" if "gpu" in asked else "worker,triggerer")
    command = await viewer.page.locator("[data-cli]").first.inner_text()
    assert ("--role" in command) == ("role=" in asked)
    bundles = values.get("taskEnvironment", {}).get("AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST")
    assert (bundles is None) == ("role=" in asked)
    if bundles is not None:
        assert json.loads(bundles)[0]["kwargs"] == {"path": "/srv/dags"}
        said = await viewer.page.get_by_label("Environment of tasks").inner_text()
        assert said.strip() == f"AIRFLOW__DAG_PROCESSOR__DAG_BUNDLE_CONFIG_LIST={bundles}"
        assert "--runner-environment-file /etc/isthmus/task-environment" in command
    await viewer.check()
