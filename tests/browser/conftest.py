"""Debian's Chromium before a real control plane, on a real PostgreSQL and the lab's resource manager.

One browser and one control plane for each module: tests make their own clusters' connections and operators. A page that
says anything to the console, or whose script fails, fails its test.
"""

import shutil
import tempfile
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, BrowserContext, Frame, Page, async_playwright
from sqlalchemy.engine import make_url
from tests.fakes.control_plane import SCENE_CLUSTER, ControlPlane, prepare, running
from tests.fakes.link_scene import LabCredential, Scene, on_fake_lab

from isthmus.deployment import databases
from isthmus.link.drivers.azure.config import AzureConfig
from isthmus.link.drivers.azure.driver import AzureCloud
from isthmus.wire.control import OperatorRole

CLUSTER = SCENE_CLUSTER["cluster_id"]
LINK = f"/clusters/{CLUSTER}/link"
#: What axe calls them; "minor" and "moderate" are looked at by people.
SERIOUS = ("serious", "critical")


@dataclass
class Site:
    """A control plane with one cluster and its published link, and who may come in."""

    plane: ControlPlane
    scene: Scene
    alias: str
    admin: str
    viewer: str
    #: Where deployments' admin tokens are.
    tokens: Path

    def url(self, path: str = "") -> str:
        return f"{self.plane.url}/ui{path}"


@dataclass
class Tab:
    """A page in a browser, and what it complained of."""

    page: Page
    site: Site
    complaints: list[str]

    async def open(self, path: str) -> None:
        await self.page.goto(self.site.url(path))

    async def sign_in(self, token: str) -> "Tab":
        await self.open("/sign-in")
        await self.page.get_by_label("Operator token").fill(token)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url("**/ui/overview")
        return self

    async def check(self) -> None:
        """No serious violation, no complaint, nothing wider than the window."""
        await check_page(self.page)
        assert self.complaints == []


async def check_page(page: Page | Frame) -> None:
    """No serious violation, nothing wider than the window."""
    results = (await Axe().run(page)).response
    found = [
        f"{one['id']}: {one['help']}: {[node['html'][:200] for node in one['nodes'][:3]]}"
        for one in results["violations"]
        if one["impact"] in SERIOUS
    ]
    assert found == [], page.url
    assert results["passes"], "axe looked at nothing"
    wide = await page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert wide <= 0, f"{page.url} is {wide} pixels too wide"


def listen_to(page: Page) -> list[str]:
    """What a page complains of, from now on."""
    complaints: list[str] = []

    def note(message: Any) -> None:
        # A refused form is an answer like any other; the browser writes its status down.
        if message.type == "error" and "Failed to load resource" not in message.text:
            complaints.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


OpenTab = Callable[..., Awaitable[Tab]]


@pytest.fixture(scope="module")
def module_database(postgres_url: str) -> Iterator[str]:
    name = f"isthmus_{uuid.uuid4().hex}"
    with databases.connected(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(f'CREATE DATABASE "{name}"')
    yield make_url(postgres_url).set(database=name).render_as_string(hide_password=False)
    with databases.connected(postgres_url) as connection, connection.cursor() as cursor:
        cursor.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(module_database: str) -> AsyncIterator[Site]:
    folder = Path(tempfile.mkdtemp(prefix="isthmus-browser-"))
    tokens = folder / "tokens"
    tokens.mkdir()
    admin = await prepare(module_database)
    viewer = await prepare(module_database, "vic", OperatorRole.VIEWER)
    try:
        with on_fake_lab(folder) as (lab, scene):
            config = AzureConfig(arm_endpoint=lab.url, ca_file=lab.ca, poll_seconds=0.01, operation_seconds=20)
            async with AsyncExitStack() as stack:
                cloud = await stack.enter_async_context(AzureCloud(config, LabCredential(lab)))
                plane = await stack.enter_async_context(running(module_database, cloud, admin, admin_tokens=tokens))
                await plane.call("POST", "/clusters", SCENE_CLUSTER, status=201)
                spec = scene.service_spec()
                body = {name: getattr(spec, name) for name in ("service_id", "frontend_id", "nat_subnet_id")}
                await plane.call("PUT", LINK, {**body, "inherits_approval": False}, status=202)
                link = await plane.until(LINK, lambda one: one["state"] == "published")
                yield Site(plane, scene, link["alias"], admin, viewer, tokens)
    finally:
        shutil.rmtree(folder)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium)
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def open_tab(browser: Browser, site: Site) -> AsyncIterator[OpenTab]:
    """A function that opens a browser of its own (its cookies are nobody else's), signed in with a token if given."""
    contexts: list[BrowserContext] = []

    async def open_tab(token: str | None = None, **options: Any) -> Tab:
        options = {"viewport": {"width": 1280, "height": 800}, **options}
        context = await browser.new_context(**options)
        contexts.append(context)
        context.set_default_timeout(15_000)
        page = await context.new_page()
        tab = Tab(page, site, listen_to(page))
        return tab if token is None else await tab.sign_in(token)

    yield open_tab
    for context in contexts:
        await context.close()


@pytest_asyncio.fixture(loop_scope="module")
async def admin(open_tab: OpenTab, site: Site) -> Tab:
    return await open_tab(site.admin)


@pytest_asyncio.fixture(loop_scope="module")
async def viewer(open_tab: OpenTab, site: Site) -> Tab:
    return await open_tab(site.viewer)
