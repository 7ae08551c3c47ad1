"""What other sites, viewers, and people without a session can do with the pages: nothing."""

import asyncio
import json
import re
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack, aclosing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from playwright.async_api import expect
from tests.browser.conftest import CLUSTER, LINK, OpenTab, Site, Tab

from isthmus.control.databases import Database
from isthmus.control.web.rendering import FORM_TOKEN_PLACE, POLICY
from isthmus.control.web.site import PAGES
from isthmus.control.web.streaming import STREAMS_PER_SESSION
from isthmus.wire import paths

pytestmark = pytest.mark.asyncio(loop_scope="module")

NEW_CLUSTER = {"do": "create", "cidr": "10.200.0.0/16", "domain": "example.org", "region": "westeurope"}
SCRIPT = "<script>document.title='taken'</script>"


async def signed_in(site: Site, token: str) -> tuple[httpx.AsyncClient, str]:
    """A client with a session's cookie, and the form token that its pages carry."""
    http = httpx.AsyncClient(base_url=site.url(), timeout=20)
    answer = await http.post("/sign-in", data={"token": token})
    assert answer.status_code == 303
    page = (await http.get("/clusters/new")).text
    found = re.search(r'name="form_token" value="([^"]+)"', page)
    assert found is not None
    return http, found[1]


async def clusters(site: Site) -> set[str]:
    return {one["cidr"] for one in (await site.plane.call("GET", "/clusters"))["clusters"]}


@contextmanager
def another_site(page: str) -> Iterator[str]:
    """Somebody else's web site, on another address of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.2", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.2:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


async def test_a_form_needs_the_sessions_token_and_our_own_page(site: Site) -> None:
    http, token = await signed_in(site, site.admin)
    other, others_token = await signed_in(site, site.viewer)
    async with aclosing(http), aclosing(other):
        for data, headers in (
            (NEW_CLUSTER, {}),
            ({**NEW_CLUSTER, "form_token": "x"}, {}),
            ({**NEW_CLUSTER, "form_token": others_token}, {}),
            ({**NEW_CLUSTER, "form_token": token}, {"origin": "https://evil.example"}),
            ({**NEW_CLUSTER, "form_token": token}, {"origin": "null"}),
            ({**NEW_CLUSTER, "form_token": token}, {"sec-fetch-site": "cross-site"}),
            ({**NEW_CLUSTER, "form_token": token}, {"sec-fetch-site": "same-site"}),
        ):
            answer = await http.post("/clusters/new", data=data, headers=headers)
            assert (answer.status_code, "form_foreign" in answer.text) == (403, True), (data, headers)
        assert "10.200.0.0/16" not in await clusters(site)
        answer = await http.post("/clusters/new", data={**NEW_CLUSTER, "form_token": token})
        assert answer.status_code == 303
        assert "10.200.0.0/16" in await clusters(site)


async def test_another_sites_form_does_nothing_in_a_real_browser(admin: Tab, site: Site) -> None:
    fields = "".join(f'<input name="{name}" value="{value}">' for name, value in NEW_CLUSTER.items())
    fields = fields.replace("10.200", "10.201")
    page = f'<form method="post" action="{site.url("/clusters/new")}">{fields}<button>win a prize</button></form>'
    with another_site(page) as url:
        await admin.page.goto(url)
        await admin.page.get_by_role("button").click()
        await expect(admin.page).to_have_url(re.compile("/ui/sign-in"))  # the cookie did not come along
    assert "10.201.0.0/16" not in await clusters(site)


async def test_a_link_on_another_site_leads_in(admin: Tab, site: Site) -> None:
    """A strict cookie is held back on the first request; our own page asks again."""
    with another_site(f'<a href="{site.url("/audit?operator=ann")}">the log</a>') as url:
        await admin.page.goto(url)
        await admin.page.get_by_role("link").click()
        await expect(admin.page.get_by_role("heading", name="Audit log")).to_be_visible()
        assert admin.page.url == site.url("/audit?operator=ann")


async def test_nobody_frames_a_page(admin: Tab, site: Site) -> None:
    with another_site(f'<iframe src="{site.url("/sign-in")}"></iframe>') as url:
        await admin.page.goto(url)
        frame = admin.page.frames[-1]
        assert await frame.locator("#token").count() == 0


async def test_a_viewer_looks_and_does_not_act(site: Site) -> None:
    http, token = await signed_in(site, site.viewer)
    before = await site.plane.call("GET", "/audit", limit=1)
    async with aclosing(http):
        for page in PAGES:
            path = re.sub(r"\{cluster_id\}", CLUSTER, page.path)
            path = re.sub(r"\{\w+\}", "cnaaaaaaaaaa", path)
            for act in page.acts:
                answer = await http.post(path, data={"do": act, "form_token": token})
                assert (answer.status_code, "operator_role" in answer.text) == (403, True), (path, act)
        for path in ("/clusters", "/clusters/new", LINK, "/operators"):
            text = (await http.get(path)).text
            assert 'class="danger"' not in text
            assert text.count('method="post"') <= 3, path  # appearance, sign-out; and the form of a page for admins
    assert await site.plane.call("GET", "/audit", limit=1) == before


async def test_every_answer_has_the_headers(site: Site) -> None:
    http, token = await signed_in(site, site.admin)
    async with aclosing(http), site.plane.connected() as stranger:
        asset = re.search(r'href="/ui(/static/[^"]+\.css)"', (await http.get("/sign-in")).text)
        assert asset is not None
        for answer in (
            await http.get("/overview"),
            await http.get("/nowhere"),
            await http.get("/clusters/clzzzzzzzzz"),
            await http.get("/audit?since=nonsense"),
            await http.get("/audit/export?format=csv"),
            await http.get("/clusters/%00"),
            await http.get("/audit?operator=%00"),
            await http.post("/clusters/new", data={"do": "nothing", "form_token": token}),
            await http.post("/clusters/new", content=b"\xff\xfe=%zz&&&=", headers={"content-type": "text/plain"}),
            await http.put("/clusters"),
            await http.get(asset[1]),
            await stranger.get("/ui/overview"),
            await stranger.get("/ui/sign-in"),
            await stranger.get("/ui/"),
        ):
            assert answer.headers["content-security-policy"] == POLICY, answer.url
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["x-frame-options"] == "DENY"
            assert answer.status_code < 500, answer.text
            is_static = "/static/" in str(answer.url)
            assert ("immutable" if is_static else "no-store") in answer.headers["cache-control"]
    assert "unsafe" not in POLICY


async def test_nothing_is_shown_without_a_session(site: Site) -> None:
    async with site.plane.connected() as http:
        for page in PAGES:
            path = re.sub(r"\{\w+\}", CLUSTER, page.path)
            for headers in ({}, {"accept": "text/event-stream"}, {"cookie": "isthmus_session=x; __Host-isthmus=y"}):
                answer = await http.get(f"/ui{path}", headers=headers)
                assert (answer.status_code, answer.headers["location"][:11]) == (303, "/ui/sign-in"), path
            answer = await http.post(f"/ui{path}", data={"do": "create"})
            assert answer.status_code == 303


async def test_the_host_alone_leads_to_the_pages(site: Site) -> None:
    async with site.plane.connected() as http:
        answer = await http.get("/")
        assert (answer.status_code, answer.headers["location"]) == (303, "/ui/")
        there = await http.get(answer.headers["location"])
        assert (there.status_code, there.headers["location"]) == (303, "/ui/overview")
        assert (await http.get("/elsewhere")).status_code == 404


ELSEWHERE = (
    "//evil.example/",
    "https://evil.example/",
    "/\\evil.example",
    "/control/v1/clusters",
    "/ui/x\n",
    "javascript:x",
)


@pytest.mark.parametrize("wanted", ELSEWHERE)
async def test_signing_in_leads_nowhere_else(wanted: str, site: Site) -> None:
    async with site.plane.connected() as http:
        answer = await http.post(f"/ui/sign-in?{urlencode({'next': wanted})}", data={"token": site.admin})
        assert answer.headers["location"] == "/ui/overview"
        cookie = answer.headers["set-cookie"].lower()
        assert "httponly" in cookie
        assert "samesite=strict" in cookie
        assert site.admin not in cookie


async def test_a_session_ends(site: Site, module_database: str) -> None:
    http, token = await signed_in(site, site.admin)
    async with aclosing(http):
        kept = dict(http.cookies)
        assert (await http.get("/clusters")).status_code == 200
        assert (await http.post("/sign-out", data={"form_token": "x"})).status_code == 403
        assert (await http.post("/sign-out", data={"form_token": token})).status_code == 303
        http.cookies.update(kept)
        assert (await http.get("/clusters")).status_code == 303, "the cookie still opens the door"
    http, _ = await signed_in(site, site.admin)
    async with aclosing(http), Database(module_database) as database:
        async with database.begin() as connection:
            await connection.exec_driver_sql("UPDATE isthmus_control.session SET expires_at = now()")
        assert (await http.get("/clusters")).status_code == 303
        async with database.begin() as connection:
            rows = (await connection.exec_driver_sql("SELECT * FROM isthmus_control.session")).all()
        assert not any(value in str(rows) for value in http.cookies.values()), "a cookie is in the database"


async def followed(http: httpx.AsyncClient, path: str, *, events: int) -> list[str]:
    """The first events of a page's stream."""
    found: list[str] = []
    async with asyncio.timeout(10), http.stream("GET", path, headers={"accept": "text/event-stream"}) as answer:
        assert answer.status_code == 200, await answer.aread()
        text = ""
        async for part in answer.aiter_text():
            text += part
            *found, _ = text.split("\n\n")
            if len(found) >= events:
                break
    return found


async def test_what_sessions_share_has_nothing_of_any_of_them(site: Site) -> None:
    """Two admins and a viewer follow a page with a form in a live region: each gets its own form token, or none."""
    scene = site.scene
    path = scene.path(scene.customer, "privateEndpoints/shared")
    request = {"name": "link", "properties": {"privateLinkServiceId": site.alias}}
    properties = {"subnet": {"id": scene.subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    await asyncio.to_thread(scene.put, path, {"location": "westeurope", "properties": properties})
    await site.plane.until(f"{LINK}/connections", lambda found: "shared" in str(found))
    other_name = "bea" + uuid.uuid4().hex[:8]
    other = (await site.plane.call("POST", "/operators", {"name": other_name, "role": "admin"}, status=201))["secret"]
    ann, ann_form = await signed_in(site, site.admin)
    bea, bea_form = await signed_in(site, other)
    vic, vic_form = await signed_in(site, site.viewer)
    async with aclosing(ann), aclosing(bea), aclosing(vic):
        streams = await asyncio.gather(*(followed(one, LINK, events=6) for one in (ann, bea, vic)))
        pages = [(await one.get(LINK)).text for one in (ann, bea, vic)]
        seen = ["".join(events) for events in streams]
        for mine, found in ((0, seen[0]), (1, seen[1]), (0, pages[0]), (1, pages[1]), (2, seen[2]), (2, pages[2])):
            forms = (ann_form, bea_form, vic_form)
            assert not any(token in found for token in forms if token != forms[mine]), "another session's form token"
            assert FORM_TOKEN_PLACE not in found
        assert ann_form in seen[0]
        assert bea_form in seen[1]
        assert "approve-" in seen[0]
        assert "approve-" not in seen[2]
        assert vic_form not in seen[2], "a viewer's regions have no form"
        for found, page in zip(streams, pages, strict=True):
            events = [json.loads(event.partition("data: ")[2]) for event in found if event.startswith("event: region")]
            digest = next(one["digest"] for one in events if one["name"] == "live-clusters-link_connections")
            assert f'data-live="{digest}"' in page, "the page and its stream differ"
        # The token that came with the stream is one that opens: what was put in is the viewer's own.
        connection = re.search(r'name="connection_id" value="(\w+)"', pages[1])
        assert connection is not None
        form = {"do": "approve", "connection_id": connection[1], "form_token": ann_form}
        assert (await bea.post(LINK, data=form)).status_code == 403
        assert (await bea.post(LINK, data={**form, "form_token": bea_form})).status_code == 303


async def test_a_stream_ends_with_its_operator_and_the_others_go_on(site: Site) -> None:
    name = "cat" + uuid.uuid4().hex[:8]
    token = (await site.plane.call("POST", "/operators", {"name": name, "role": "viewer"}, status=201))["secret"]
    cat, _ = await signed_in(site, token)
    vic, _ = await signed_in(site, site.viewer)

    async def follow(http: httpx.AsyncClient, ready: asyncio.Event) -> str:
        text = ""
        async with http.stream("GET", "/overview", headers={"accept": "text/event-stream"}) as answer:
            async for part in answer.aiter_text():
                text += part
                ready.set()
        return text

    async with aclosing(cat), aclosing(vic):
        ready = asyncio.Event(), asyncio.Event()
        revoked = asyncio.create_task(follow(cat, ready[0]))
        kept = asyncio.create_task(follow(vic, ready[1]))
        for one in ready:
            await asyncio.wait_for(one.wait(), 10)
        await site.plane.call("POST", f"/operators/{name}/revoke")
        async with asyncio.timeout(2):
            text = await revoked
        assert text.endswith("event: end\ndata: -\n\n")
        assert not kept.done()
        kept.cancel()
        await asyncio.wait([kept])


async def test_a_session_follows_so_many_pages_and_is_told_when_it_is_one_too_many(site: Site) -> None:
    http, _ = await signed_in(site, site.viewer)
    headers = {"accept": "text/event-stream"}
    http.timeout = httpx.Timeout(20, pool=20)
    async with aclosing(http), AsyncExitStack() as stack:
        for _ in range(STREAMS_PER_SESSION):
            answer = await stack.enter_async_context(http.stream("GET", "/overview", headers=headers))
            assert answer.status_code == 200
        refused = await http.get("/overview", headers=headers)
        assert (refused.status_code, "too_many_pages" in refused.text) == (429, True)
        assert (await http.get("/overview")).status_code == 200, "a page without its stream is shown all the same"
        another, _ = await signed_in(site, site.viewer)
        async with aclosing(another):
            assert await followed(another, "/overview", events=1)
    again, _ = await signed_in(site, site.viewer)
    async with aclosing(again):
        assert await followed(again, "/overview", events=1)


async def test_script_in_what_a_customer_says_is_text(admin: Tab, open_tab: OpenTab, site: Site) -> None:
    scene = site.scene
    path = scene.path(scene.customer, "privateEndpoints/hostile")
    request = {"name": "link", "properties": {"privateLinkServiceId": site.alias, "requestMessage": SCRIPT}}
    properties = {"subnet": {"id": scene.subnet_id()}, "manualPrivateLinkServiceConnections": [request]}
    await admin.open(LINK)
    await asyncio.to_thread(scene.put, path, {"location": "westeurope", "properties": properties})
    row = admin.page.get_by_role("row").filter(has_text="hostile")
    await expect(row).to_contain_text(SCRIPT)
    await admin.check()
    await row.get_by_role("link").first.click()
    await expect(admin.page.get_by_text(SCRIPT).first).to_be_visible()
    await admin.open("/audit?action=connection.request")
    await expect(admin.page.get_by_text(SCRIPT).first).to_be_visible()
    await admin.open(f"/audit?{urlencode({'operator': SCRIPT, 'subject': SCRIPT})}")
    await admin.open(
        f"/clusters/{CLUSTER}/guide?{urlencode({'vnet': 'a' + SCRIPT.replace('/', ''), 'way': 'isthmus'})}"
    )
    await admin.open(f"/clusters/{CLUSTER}/guide?{urlencode({'vnet': SCRIPT})}")
    await admin.open(f"{LINK}?state={SCRIPT}")
    assert "taken" not in await admin.page.title()
    assert admin.complaints == []


async def test_the_log_is_exported_and_no_cell_is_a_formula(site: Site) -> None:
    http, _ = await signed_in(site, site.admin)
    async with aclosing(http):
        answer = await http.get("/audit/export?format=csv&action=cluster.create")
        assert "attachment" in answer.headers["content-disposition"]
        head, *lines = answer.text.splitlines()
        assert head == "id,at,operator,source_address,action,subject,before,after"
        assert lines
        assert all(",cluster.create,cluster/" in line for line in lines)
        found = (await http.get("/audit/export?format=json&operator=ann")).json()
        api = await site.plane.call("GET", paths.CONTROL_AUDIT.removeprefix("/control/v1"), operator="ann", limit=500)
        assert found == api["entries"]
