"""An operator's browser before the real control plane."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from network.link.provider import Provider


class Desk:
    """One browser of its own, signed in. ``complaints`` is what its pages' scripts failed with."""

    def __init__(self, provider: Provider, browser: Browser, **options: Any) -> None:
        # The authority is the test's own, and not in the browser's store.
        options = {"viewport": {"width": 1280, "height": 900}, **options}
        self.context = browser.new_context(ignore_https_errors=True, **options)
        self.context.set_default_timeout(20_000)
        self.page: Page = self.context.new_page()
        self.complaints: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self._provider = provider
        self._sign_in()

    def _sign_in(self) -> None:
        page = self.open("/overview")
        page.get_by_label("Operator token").fill((self._provider.directory / "ann").read_text().strip())
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_role("heading", level=1)).to_contain_text("Overview")

    def open(self, path: str) -> Page:
        self.page.goto(f"{self._provider.control_url}/ui{path}")
        return self.page

    def trouble(self, about: str) -> Locator:
        """What the overview says is wrong; it is waited for, and not loaded again."""
        trouble = self.page.get_by_role("listitem").filter(has_text=about)
        expect(trouble).to_have_count(1, timeout=30_000)
        return trouble

    def row(self, about: str) -> Locator:
        return self.page.get_by_role("row").filter(has_text=about)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Debian's Chromium."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("chromium is missing: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable)
        yield browser
        browser.close()
