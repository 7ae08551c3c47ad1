"""Codes and warnings that the page for people in trouble names exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
#: In code spans: words that are joined by an underscore, as codes are, and settings are, too.
_CODE = re.compile(r"`([a-z]+(?:_[a-z]+)+)`")


@pytest.fixture(scope="module")
def source() -> str:
    return "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "isthmus").rglob("*.py"))


def test_there_are_codes_to_check() -> None:
    assert len(set(_CODE.findall((DOCS / "troubleshooting.md").read_text(encoding="utf-8")))) > 15


@pytest.mark.parametrize("page", ["troubleshooting.md", "never-tried.md", "aks.md", "azure.md"])
def test_each_code_is_somewhere_in_the_source(page: str, source: str) -> None:
    named = set(_CODE.findall((DOCS / page).read_text(encoding="utf-8")))
    # A code is a string of its own, alone or made of a kind and an ending ("connection_" + state).
    known = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", source))
    made = {f"connection_{state}" for state in ("pending", "rejected", "disconnected", "expired")}
    assert sorted(named - known - made) == []


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_links_to_headings_lead_to_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
        text = (page.parent / target if target else page).read_text(encoding="utf-8")
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        headings = {re.sub(r"[^\w -]", "", one).lower().replace(" ", "-") for one in titles}
        assert anchor in headings | set(re.findall(r'<a id="([^"]+)">', text)), f"{page.name}: {target}#{anchor}"
