"""Pictures and the configuration that is made of them: pure."""

from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from isthmus.control.ingress.config import IngressConfig
from isthmus.control.ingress.pictures import IngressPicture, LinkEntrance, Route, Server, route
from isthmus.control.ingress.rendering import render
from isthmus.kit.errors import ConfigError

CONFIG = IngressConfig(
    cluster="cl234567abc",
    control_url="https://control.example",
    control_token_file=Path("/run/token"),
    certificate=Path("/run/chain.pem"),
    private_key=Path("/run/key.pem"),
)
PICTURE = IngressPicture(
    "cl234567abc",
    (route("dbbbbbbb", ["https://10.0.0.2"]), route("daaaaaaa", ["https://b.internal:8443", "https://a.internal"])),
    LinkEntrance((IPv4Network("10.20.0.0/16"),)),
)


def test_the_same_picture_gives_the_same_text_whatever_its_order() -> None:
    other = replace(PICTURE, routes=tuple(reversed(PICTURE.routes)))
    assert render(PICTURE, CONFIG) == render(other, CONFIG)
    assert render(PICTURE, CONFIG) != render(replace(PICTURE, link=None), CONFIG)


def test_servers_are_led_to_with_tls_that_is_verified() -> None:
    text = render(PICTURE, CONFIG)
    assert "server s1 a.internal:443\n    server s2 b.internal:8443\n" in text
    assert "verify required ca-file @system-ca verifyhost a.internal sni str(a.internal)" in text
    assert "verify none" not in text


def test_the_links_entrance_is_open_to_its_networks_and_probes_alone() -> None:
    text = render(PICTURE, CONFIG)
    assert "tcp-request connection reject unless { src 10.20.0.0/16 168.63.129.16/32 }" in text
    assert "frontend link" not in render(replace(PICTURE, link=None), CONFIG)
    assert "frontend link" not in render(PICTURE, replace(CONFIG, link_port=0))
    plain = render(replace(PICTURE, link=LinkEntrance((IPv4Network("10.20.0.0/16"),), False)), CONFIG)
    assert "frontend link" not in plain
    assert "bind 0.0.0.0:8443 ssl" in plain


@pytest.mark.parametrize(
    "url",
    [
        "http://a.internal",
        "https://a.internal/path",
        "https://user@a.internal",
        "https://a.internal:0",
        "https://a.internal:99999",
        "https://a.internal?x",
        "https://a b",
        "https://a\nbackend evil",
        "https://a;b",
        'https://a"b',
        "a.internal",
        "",
    ],
)
def test_what_is_no_server_is_refused_before_it_is_a_line(url: str) -> None:
    with pytest.raises(ConfigError):
        route("daaaaaaa", [url])


def test_nothing_from_the_registry_can_add_a_line() -> None:
    with pytest.raises(ConfigError):
        Route("daaaaaaa\n", (Server("a", 1),), "a")
    with pytest.raises(ConfigError):
        Route("daaaaaaa", (Server("a", 1),), "a\n    server evil 10.0.0.1")
    with pytest.raises(ConfigError):
        Server("a b", 1)
    with pytest.raises(ConfigError):
        route("daaaaaaa", [])
    with pytest.raises(ConfigError):
        render(PICTURE, replace(CONFIG, home=Path("/run/a b")))
