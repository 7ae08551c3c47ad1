"""*Remote Agents* in Airflow's own UI: a real ``airflow api-server`` on a real PostgreSQL, signed in to by a browser.

Airflow's sign-in is on (its simple auth manager): ``ada`` is an admin, ``vic`` a viewer, ``nob`` has no role at all.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Frame, Page, expect
from sqlalchemy.engine import make_url
from tests import planting
from tests.browser.conftest import check_page, listen_to

from isthmus.deployment import databases

in_browser = pytest.mark.asyncio(loop_scope="module")

PASSWORDS = {"ada": "a-password", "vic": "v-password", "nob": "n-password"}
#: Nobody listens there: a browser that follows the link shows this address all the same.
CONTROL_URL = "http://127.0.0.1:9"
SCRIPT = "<script>document.title='taken'</script>"
WIDE = {"width": 1280, "height": 800}
NARROW = {"width": 390, "height": 800}

AGENTS = """
INSERT INTO isthmus_token (id, name, secret_sha256, revoked_at)
VALUES ('aaaaaaaaaaaa', 'site', '', NULL), ('bbbbbbbbbbbb', 'old', '', now());
INSERT INTO isthmus_agent
    (id, name, role, instance_id, token_id, queues, slots, slots_used,
     versions, last_heartbeat_at, path, link_id, address)
VALUES
    (gen_random_uuid(), 'oslo-1', 'worker', gen_random_uuid(), 'aaaaaaaaaaaa', '["default", "gpu"]', 8, 3,
     '{"isthmus": "0.1.0"}', now() + interval '1 hour', 'link', 7, '10.20.0.4'),
    (gen_random_uuid(), 'bergen-1', 'worker', gen_random_uuid(), 'bbbbbbbbbbbb', '["default"]', 4, 0,
     '{}', now() - interval '4 days 1 hour', 'public', NULL, '192.0.2.4'),
    (gen_random_uuid(), 'narvik-1', 'worker', gen_random_uuid(), 'aaaaaaaaaaaa', '["default"]', 4, 0,
     '{}', now() - interval '3 hours', 'public', NULL, '192.0.2.5'),
    (gen_random_uuid(), $$<script>document.title='taken'</script>$$, 'triggerer', gen_random_uuid(), 'aaaaaaaaaaaa',
     '["<b>bold</b>"]', 4, 0, '{"isthmus": "<i>0</i>"}', now() - interval '3 days', 'link', NULL, '10.20.0.5');
INSERT INTO isthmus_allowed_range (range) VALUES ('10.20.0.0/16');
INSERT INTO isthmus_workload (id, kind, queue, priority, display_name, payload, subject_id, dag_id, queued_at)
SELECT gen_random_uuid(), 'task', $$<b>bold</b>$$, 0, 'dag.task', '{}', 'subject', 'dag', now()
FROM generate_series(1, 3);
"""


@dataclass
class Airflow:
    """A running API server, and the database that it is on."""

    url: str
    database_url: str

    @property
    def page(self) -> str:
        return f"{self.url}/isthmus/agents"

    def bearer(self, user: str) -> dict[str, str]:
        """The header of a program that has signed in."""
        answer = httpx.post(f"{self.url}/auth/token", json={"username": user, "password": PASSWORDS[user]}, timeout=20)
        assert answer.status_code == 201, answer.text
        return {"Authorization": f"Bearer {answer.json()['access_token']}"}

    def get(self, user: str | None = None, path: str = "") -> httpx.Response:
        headers = self.bearer(user) if user else {}
        return httpx.get(f"{self.page}{path}", headers=headers, timeout=20)

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """Its database is gone, and comes back."""
        name = make_url(self.database_url).database
        self._rename(f"{name}", f"{name}_away")
        try:
            yield
        finally:
            self._rename(f"{name}_away", f"{name}")

    def _rename(self, before: str, after: str) -> None:
        other = make_url(self.database_url).set(database="template1").render_as_string(hide_password=False)
        close = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{before}'"
        planting.execute(other, close, f'ALTER DATABASE "{before}" RENAME TO "{after}"')


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def api_server(environment: dict[str, str], log: Path) -> Iterator[str]:
    """An ``airflow api-server`` that answers; its address."""
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "airflow",
        "api-server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/api/v2/monitor/health", timeout=10).is_success:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def airflow(
    postgres_url: str,
    airflow_template: str,
    airflow_environment: Callable[[str], dict[str, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Airflow]:
    folder = tmp_path_factory.mktemp("view")
    passwords = folder / "passwords.json"
    passwords.write_text(json.dumps(PASSWORDS))
    name = f"view_{uuid.uuid4().hex[:12]}"
    planting.execute(postgres_url, f'CREATE DATABASE "{name}" TEMPLATE "{airflow_template}"')
    url = make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    environment = {
        "PATH": os.environ["PATH"],
        **airflow_environment(url),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "ada:admin,vic:viewer,nob:",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(passwords),
        "AIRFLOW__ISTHMUS__CONTROL_URL": f"{CONTROL_URL}/",
    }
    try:
        planting.execute(url, AGENTS)
        with api_server(environment, folder / "api-server.log") as address:
            yield Airflow(address, url)
    finally:
        planting.execute(postgres_url, f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    context = await browser.new_context(viewport=WIDE)  # type: ignore[arg-type]
    context.set_default_timeout(20_000)
    yield context
    await context.close()


async def sign_in(context: BrowserContext, airflow: Airflow, user: str) -> Page:
    """A tab of somebody who has signed in to Airflow."""
    page = await context.new_page()
    await page.goto(airflow.url)
    await page.get_by_label("Username").fill(user)
    await page.get_by_label("Password").fill(PASSWORDS[user])
    await page.get_by_role("button", name="Sign in").click()
    await page.get_by_role("button", name="Browse").wait_for()
    return page


async def frame_of(page: Page) -> Frame:
    """Our page inside Airflow's."""
    element = await page.wait_for_selector("iframe")
    frame = await element.content_frame()
    assert frame is not None
    await frame.wait_for_selector("h1")
    return frame


# --- inside Airflow's UI


@in_browser
@pytest.mark.parametrize("user", ["ada", "vic"])
async def test_the_entry_leads_to_the_page_inside_airflow(airflow: Airflow, context: BrowserContext, user: str) -> None:
    page = await sign_in(context, airflow, user)
    await page.get_by_role("button", name="Browse").click()
    await page.get_by_role("menuitem", name="Remote Agents").click()
    frame = await frame_of(page)
    # Airflow adds the frame's own address as soon as that is known.
    await expect(page).to_have_url(re.compile(r"/plugin/remote-agents(/isthmus/agents)?$"))
    await expect(frame.get_by_role("heading", name="Remote Agents")).to_be_visible()
    healthy = frame.get_by_role("row", name="oslo-1")
    await expect(healthy).to_contain_text("healthy")
    await expect(healthy).to_contain_text("private, link 7")
    await expect(healthy).to_contain_text("3 of 8")
    await expect(healthy).to_contain_text("default, gpu")
    await expect(frame.get_by_role("row", name="bergen-1")).to_contain_text(
        "no heartbeat for 4 d; its token was revoked"
    )
    await expect(frame.get_by_role("row", name="narvik-1")).to_contain_text(
        "192.0.2.5, which the allow list does not let in"
    )
    await page.reload()  # Airflow keeps the frame's address in its own
    frame = await frame_of(page)
    await expect(frame.get_by_role("row", name="oslo-1")).to_be_visible()
    # Our style sheet is let in by our policy.
    assert await frame.evaluate("getComputedStyle(document.querySelector('.bad')).fontWeight") == "600"


@in_browser
async def test_script_in_names_stays_text(airflow: Airflow, context: BrowserContext) -> None:
    page = await sign_in(context, airflow, "ada")
    await page.goto(f"{airflow.url}/plugin/remote-agents")
    frame = await frame_of(page)
    row = frame.get_by_role("row").filter(has_text=SCRIPT)
    await expect(row).to_contain_text("<b>bold</b>")
    await expect(row).to_contain_text("<i>0</i>")
    await expect(frame.get_by_role("rowheader", name="<b>bold</b>")).to_be_visible()
    assert await frame.locator("td b, th b, td i, main script").count() == 0
    assert await frame.title() == "Remote Agents"


@in_browser
async def test_the_page_follows_the_agents(airflow: Airflow, context: BrowserContext) -> None:
    page = await sign_in(context, airflow, "vic")
    await page.goto(f"{airflow.url}/plugin/remote-agents")
    frame = await frame_of(page)
    planting.execute(airflow.database_url, "UPDATE isthmus_agent SET cordoned = true WHERE name = 'oslo-1'")
    try:
        await expect(frame.get_by_role("row", name="oslo-1")).to_contain_text("cordoned", timeout=15_000)
    finally:
        planting.execute(airflow.database_url, "UPDATE isthmus_agent SET cordoned = false")


@in_browser
async def test_the_control_plane_opens_outside_the_frame(airflow: Airflow, context: BrowserContext) -> None:
    page = await sign_in(context, airflow, "vic")
    await page.goto(f"{airflow.url}/plugin/remote-agents")
    await expect((await frame_of(page)).get_by_text(CONTROL_URL)).to_be_visible()
    await page.get_by_role("button", name="Browse").click()
    async with context.expect_event("request", lambda one: one.url.startswith(CONTROL_URL)) as asked:
        await page.get_by_role("menuitem", name="Isthmus Control Plane").click()
    assert (await asked.value).url == f"{CONTROL_URL}/ui/overview"


@in_browser
async def test_an_open_page_says_that_it_is_out_of_date(airflow: Airflow, context: BrowserContext) -> None:
    page = await sign_in(context, airflow, "vic")
    await page.goto(f"{airflow.url}/plugin/remote-agents")
    frame = await frame_of(page)
    stale = frame.get_by_text("this may be out of date")
    await expect(stale).to_be_hidden()
    again = "document.dispatchEvent(new Event('visibilitychange'))"
    with airflow.without_database():
        await frame.evaluate(again)
        await expect(stale).to_be_visible()
        await expect(frame.get_by_role("row", name="oslo-1")).to_be_visible()
    await frame.evaluate(again)
    await expect(stale).to_be_hidden()


# --- how it looks


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["1280", "390"])
async def test_the_page_is_accessible(airflow: Airflow, browser: Browser, size: dict[str, int], scheme: str) -> None:
    headers = airflow.bearer("vic")
    context = await browser.new_context(viewport=size, color_scheme=scheme, extra_http_headers=headers)  # type: ignore[arg-type]
    try:
        page = await context.new_page()
        complaints = listen_to(page)
        await page.goto(airflow.page)
        await expect(page.get_by_role("row", name="oslo-1")).to_be_visible()
        await check_page(page)
        await page.goto(f"{airflow.page}?start=1000")
        await expect(page.get_by_text("There are no agents on this page.")).to_be_visible()
        await check_page(page)
        assert complaints == []
    finally:
        await context.close()


@in_browser
async def test_airflow_shows_it_on_a_narrow_screen(airflow: Airflow, context: BrowserContext) -> None:
    page = await sign_in(context, airflow, "vic")
    await page.set_viewport_size(NARROW)  # type: ignore[arg-type]
    await page.goto(f"{airflow.url}/plugin/remote-agents")
    frame = await frame_of(page)
    await expect(frame.get_by_role("row", name="oslo-1")).to_be_visible()
    await check_page(frame)


# --- who may look


def test_nobody_looks_without_a_session(airflow: Airflow) -> None:
    answer = airflow.get()
    assert answer.status_code == 401
    assert "Sign in to Airflow again" in answer.text
    assert "oslo-1" not in answer.text
    forged = httpx.get(airflow.page, headers={"Authorization": "Bearer e30.e30.e30"}, timeout=20)
    assert forged.status_code in (401, 403)
    assert "oslo-1" not in forged.text


def test_who_may_not_see_plugins_may_not_look(airflow: Airflow) -> None:
    answer = airflow.get("nob")
    assert answer.status_code == 403
    assert "Ask an administrator of this Airflow" in answer.text
    assert "oslo-1" not in answer.text


def test_a_bearer_token_lets_viewers_look_and_nobody_keeps_the_answer(airflow: Airflow) -> None:
    answer = airflow.get("vic")
    assert answer.status_code == 200
    assert "oslo-1" in answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert "frame-ancestors 'self'" in answer.headers["content-security-policy"]
    assert httpx.post(airflow.page, headers=airflow.bearer("vic"), timeout=20).status_code == 405


def test_browsers_keep_the_style_sheet_and_the_script(airflow: Airflow) -> None:
    text = airflow.get("vic").text
    found = re.findall(r'(?:href|src)="(\w+/agents\.(?:css|js))"', text)
    assert len(found) == 2
    for name in found:
        answer = httpx.get(f"{airflow.url}/isthmus/{name}", timeout=20)
        assert answer.status_code == 200
        assert "immutable" in answer.headers["cache-control"]


# --- what is in the way


def test_without_the_database_the_page_says_what_to_check(airflow: Airflow) -> None:
    headers = airflow.bearer("vic")
    with airflow.without_database():
        answer = httpx.get(airflow.page, headers=headers, timeout=20)
        assert answer.status_code == 503
        assert "database does not answer" in answer.text
        assert "Is PostgreSQL running" in answer.text
        assert "[database] sql_alchemy_conn" in answer.text
    assert httpx.get(airflow.page, headers=headers, timeout=20).status_code == 200


def test_a_database_that_hangs_is_not_waited_for(airflow: Airflow) -> None:
    """Airflow's tables answer, ours do not."""
    headers = airflow.bearer("vic")
    with databases.connected(airflow.database_url) as connection, connection.cursor() as cursor:
        cursor.execute("BEGIN; LOCK TABLE isthmus_agent")
        before = time.monotonic()
        answer = httpx.get(airflow.page, headers=headers, timeout=20)
        assert time.monotonic() - before < 8
    assert answer.status_code == 503
    assert "no answer within 5 s" in answer.text
    assert httpx.get(airflow.page, headers=headers, timeout=20).status_code == 200


def test_without_our_tables_the_page_says_how_to_make_them(airflow: Airflow) -> None:
    headers = airflow.bearer("vic")
    planting.execute(airflow.database_url, "ALTER TABLE isthmus_agent RENAME TO isthmus_agent_away")
    try:
        answer = httpx.get(airflow.page, headers=headers, timeout=20)
    finally:
        planting.execute(airflow.database_url, "ALTER TABLE isthmus_agent_away RENAME TO isthmus_agent")
    assert answer.status_code == 503
    assert "airflow db migrate" in answer.text


def test_many_agents_come_in_pages(airflow: Airflow) -> None:
    headers = airflow.bearer("vic")
    add = """
        INSERT INTO isthmus_agent (id, name, role, instance_id, token_id, queues, slots, versions, last_heartbeat_at)
        SELECT gen_random_uuid(), 'crowd-' || lpad(n::text, 3, '0'), 'worker', gen_random_uuid(), 'aaaaaaaaaaaa',
               '[]', 1, '{}', now() + interval '1 hour' FROM generate_series(1, 300) AS n
    """
    planting.execute(airflow.database_url, add)
    try:
        first = httpx.get(airflow.page, headers=headers, timeout=20).text
        following = re.search(r'href="agents(\?start=\d+)">Next page', first)
        assert following is not None
        second = httpx.get(f"{airflow.page}{following[1]}", headers=headers, timeout=20).text
    finally:
        planting.execute(airflow.database_url, "DELETE FROM isthmus_agent WHERE name LIKE 'crowd-%'")
    seen = re.findall(r'<th scope="row">(crowd-\d+)</th>', first + second)
    assert seen == [f"crowd-{n:03}" for n in range(1, 301)]
    assert "First page" in second
    assert "Next page" not in second
    for start in ("-1", "many", "99999999999999999999"):
        assert httpx.get(airflow.page, params={"start": start}, headers=headers, timeout=20).status_code == 422
