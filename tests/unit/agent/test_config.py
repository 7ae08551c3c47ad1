"""The agent's settings: consistency, the token's way in, and the environment file of tasks."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from isthmus.agent import config
from isthmus.agent.credentials import Credential
from isthmus.kit import settings
from isthmus.kit.errors import ConfigError

TOKEN = {"ISTHMUS_AGENT_TOKEN": "isthmus_dtest234_abcdefgh2345_secret"}
URL = {"url": "https://cl.example/dtest234"}


def test_defaults() -> None:
    found = config.load(URL, environment=TOKEN).config
    assert (found.queues, found.slots, found.health_listen) == (("default",), 8, "127.0.0.1:9321")
    assert found.name == found.name.lower()
    assert found.state_dir.name == found.name
    assert found.runner_command == (sys.executable, "-m", "isthmus.runner")
    assert found.gateway_socket().is_relative_to(found.state_dir)


def test_a_host_name_that_is_no_agent_name_is_made_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "My_Laptop (2).Local-")
    assert config.load(URL, environment=TOKEN).config.name == "my_laptop-2-.local"


@pytest.mark.parametrize(
    ("flags", "environment", "text"),
    [
        (URL, {}, "needs one agent token"),
        ({**URL, "token_file": "/t"}, TOKEN, "needs one agent token"),
        (URL, {"ISTHMUS_AGENT_TOKEN": "two words"}, "one word"),
        (URL, {"ISTHMUS_AGENT_TOKEN": "line\nbreak"}, "one word"),
        ({**URL, "client_certificate": "/c"}, TOKEN, "client_certificate and client_key together"),
        ({"url": "http://plane.example/d"}, TOKEN, "use https"),
        ({"url": "ftp://plane.example/d"}, TOKEN, "not an http or https URL"),
        ({"url": "https://u:p4ss@plane.example/d"}, TOKEN, "and nothing else"),
        ({"url": "https://plane.example/d?x=1"}, TOKEN, "and nothing else"),
        ({**URL, "proxy": "socks5://u:p4ss@h:1"}, TOKEN, "not an http or https URL"),
        ({**URL, "health_listen": "9321"}, TOKEN, "host:port"),
        ({**URL, "name": "Not A Name"}, TOKEN, "name:"),
        ({**URL, "queues": "a,b\x01"}, TOKEN, "queues:"),
        ({**URL, "queues": ","}, TOKEN, "queues:"),
        ({**URL, "slots": 0}, TOKEN, "slots:"),
        ({**URL, "role": "cook"}, TOKEN, "role:"),
        ({**URL, "state_dir": "/" + "x" * 120}, TOKEN, "too long for a socket"),
    ],
)
def test_what_makes_no_sense_is_refused(flags: dict[str, object], environment: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(flags, environment=environment)
    assert text in str(caught.value)
    assert "p4ss" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize("url", ["http://localhost:8443/d", "http://127.0.0.1/d", "http://[::1]:1/d", "https://h/d/"])
def test_urls_that_are_fine(url: str) -> None:
    assert config.load({"url": url}, environment=TOKEN).config.url == url.rstrip("/")


@pytest.mark.parametrize(
    ("text", "parsed"), [("127.0.0.1:9321", ("127.0.0.1", 9321)), ("[::]:0", ("::", 0)), ("::1:80", ("::1", 80))]
)
def test_listen_addresses(text: str, parsed: tuple[str, int]) -> None:
    assert config.parse_listen(text) == parsed


def test_the_file_is_found_by_flag_or_environment(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('url = "https://from.file/d"\nqueues = ["a"]\n[labels]\nsite = "oslo"\n', encoding="utf-8")
    loaded = config.load({}, environment={**TOKEN, "ISTHMUS_AGENT_CONFIG": str(file)})
    assert (loaded.config.url, loaded.config.labels) == ("https://from.file/d", {"site": "oslo"})
    assert config.load({}, environment=TOKEN, file=file).config == loaded.config


def test_the_token_may_not_be_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.toml"
    file.write_text('url = "https://h/d"\ntoken = "x"\n', encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config.load({}, environment={}, file=file)
    assert caught.value.code == "config_wrong_source"


def test_passwords_are_not_explained() -> None:
    loaded = config.load({**URL, "proxy": "http://u:p4ss@proxy:3128"}, environment=TOKEN)
    text = str(settings.explain(loaded)) + repr(loaded.config.token and "")
    assert "p4ss" not in text
    assert "secret" not in text.replace("secrets", "")


def test_the_token_leaves_the_environment_for_good() -> None:
    program = """
import os, sys
from pathlib import Path
from isthmus.agent import config
found = config.load({"url": "https://h/d"}).config
assert found.token == "isthmus_dtest234_abcdefgh2345_secret", found.token
assert "ISTHMUS_AGENT_TOKEN" not in os.environ
block = Path("/proc/self/environ").read_bytes()
assert b"_secret" not in block
assert b"AFTER=kept" in block and b"BEFORE=kept" in block
"""
    environment = {"PATH": os.environ["PATH"], "BEFORE": "kept", **TOKEN, "AFTER": "kept"}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_the_environment_file(tmp_path: Path) -> None:
    file = tmp_path / "environment"
    file.write_text("# comment\n\nA=1\nexport B=\"two words\"\nC='x=y'\nD=\n E = spaced \n", encoding="utf-8")
    assert config.read_environment_file(file) == {"A": "1", "B": "two words", "C": "x=y", "D": "", "E": "spaced"}


@pytest.mark.parametrize("line", ["no equals sign", "1X=2", "A B=1", "=1"])
def test_an_environment_file_that_is_not_one(tmp_path: Path, line: str) -> None:
    file = tmp_path / "environment"
    file.write_text(f"A=1\n{line}\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        config.read_environment_file(file)
    assert "line 2" in str(caught.value)
    with pytest.raises(ConfigError):
        config.read_environment_file(tmp_path / "missing")


@pytest.mark.parametrize("content", ["", "   \n", "two words", "smörgås"])
def test_a_token_file_without_a_token(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError):
        Credential(file=file)


def test_a_token_file_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n", encoding="ascii")
    file.chmod(0o600)
    credential = Credential(file=file)
    assert (credential.token, credential.exposed, credential.reread()) == (b"first", False, False)
    file.write_text("second", encoding="ascii")
    file.chmod(file.stat().st_mode | stat.S_IRGRP)
    assert (credential.reread(), credential.token, credential.version) == (True, b"second", 1)
    assert credential.exposed
    assert "second" not in repr(credential)
