"""Every page: for an admin and a viewer, dark and narrow, without a script; and what all pages have."""

import re
import shlex
from typing import Any

import pytest
from playwright.async_api import expect
from tests.browser.conftest import CLUSTER, LINK, OpenTab, Site, Tab
from typer.main import get_command

from isthmus.cli import main

pytestmark = pytest.mark.asyncio(loop_scope="module")

PAGES = (
    "/overview",
    "/clusters",
    "/clusters/new",
    f"/clusters/{CLUSTER}",
    LINK,
    f"{LINK}?state=disconnected",
    f"/clusters/{CLUSTER}/guide",
    f"/clusters/{CLUSTER}/guide?way=az&zone=domain",
    f"/clusters/{CLUSTER}/guide?way=isthmus",
    f"/clusters/{CLUSTER}/guide?way=terraform",
    "/operators",
    "/audit",
    "/audit?operator=nobody",
    "/nowhere",
    "/clusters/clzzzzzzzzz",
)


VISITORS: dict[str, tuple[str, dict[str, Any]]] = {
    "admin": ("admin", {}),
    "admin, dark and narrow": ("admin", {"color_scheme": "dark", "viewport": {"width": 390, "height": 800}}),
    "viewer, dark": ("viewer", {"color_scheme": "dark"}),
}


@pytest.mark.parametrize("visitor", VISITORS)
async def test_each_page_is_fit_for(visitor: str, site: Site, open_tab: OpenTab) -> None:
    who, options = VISITORS[visitor]
    tab = await open_tab(getattr(site, who), **options)
    for path in PAGES:
        await tab.open(path)
        await expect(tab.page.get_by_role("heading", level=1)).to_have_count(1)
        await tab.check()
        await check_commands(tab)


async def test_signing_in_leads_to_where_one_wanted_to_go(open_tab: OpenTab, site: Site) -> None:
    tab = await open_tab()
    await tab.open("/audit?operator=ann")
    await expect(tab.page).to_have_url(re.compile(r"/ui/sign-in\?next="))
    await tab.check()
    await tab.page.get_by_label("Operator token").fill("isthmus_op_" + "a" * 12 + "_" + "b" * 43)
    await tab.page.get_by_role("button", name="Sign in").click()
    await expect(tab.page.get_by_role("alert")).to_contain_text("operator_token_invalid")
    await tab.page.get_by_label("Operator token").fill(site.admin)
    await tab.page.get_by_role("button", name="Sign in").click()
    await expect(tab.page).to_have_url(site.url("/audit?operator=ann"))
    await tab.page.get_by_role("button", name="Sign out").click()
    await expect(tab.page).to_have_url(site.url("/sign-in"))
    await tab.open("/overview")
    await expect(tab.page).to_have_url(re.compile("/ui/sign-in"))


async def test_a_revoked_operator_is_out_while_the_page_is_open(admin: Tab, open_tab: OpenTab, site: Site) -> None:
    await admin.open("/operators")
    await admin.page.get_by_text("Create an operator").click()
    await admin.page.get_by_label("Name").fill("temp")
    await admin.page.get_by_role("button", name="Create").click()
    await expect(admin.page.get_by_text("not shown again")).to_be_visible()
    await admin.check()
    token = await admin.page.locator(".once code").inner_text()

    tab = await open_tab(token)
    await tab.open("/overview")
    await admin.open("/operators")
    row = admin.page.get_by_role("row").filter(has_text="temp")
    await row.get_by_text("Revoke").first.click()
    await row.get_by_role("button", name="Revoke temp").click()
    await expect(admin.page.get_by_text("temp is shut out.")).to_be_visible()
    # The live page of the other one finds out by itself.
    await expect(tab.page).to_have_url(re.compile("/ui/sign-in"))


async def test_appearance_is_kept(admin: Tab) -> None:
    page = admin.page
    await admin.open("/clusters")
    light = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.get_by_label("Appearance").select_option("dark")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert page.url == admin.site.url("/clusters")
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    await admin.open("/audit")
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")


async def test_everything_works_by_keyboard_and_without_a_script(open_tab: OpenTab, site: Site) -> None:
    tab = await open_tab(java_script_enabled=False)
    await tab.sign_in(site.admin)
    await tab.page.keyboard.press("Tab")
    await expect(tab.page.get_by_text("Skip to the content")).to_be_focused()
    await tab.open("/clusters/new")
    await tab.page.get_by_label("Network (CIDR)").fill("10.300.0.0/16")
    await tab.page.get_by_label("Domain").fill("example.org")
    await tab.page.get_by_label("Azure region").fill("westeurope")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("alert")).to_contain_text("10.300.0.0/16")
    await expect(tab.page.get_by_label("Domain")).to_have_value("example.org")
    await tab.page.get_by_label("Network (CIDR)").fill("10.77.0.0/16")
    await tab.page.keyboard.press("Enter")
    await expect(tab.page.get_by_role("status")).to_contain_text("is created")
    await expect(tab.page.get_by_role("main")).to_contain_text("10.77.0.0/16")


async def check_commands(tab: Tab) -> None:
    """Each command that the page shows is one, with options that it has."""
    for text in await tab.page.locator("[data-cli]").all_text_contents():
        program, *words = shlex.split(text)
        assert program == "isthmus", text
        command: Any = get_command(main.app)
        while hasattr(command, "get_command"):
            below = command.get_command(None, words[0])
            assert below is not None, text
            command, words = below, words[1:]
        command.make_context("isthmus", [*words], resilient_parsing=False)
