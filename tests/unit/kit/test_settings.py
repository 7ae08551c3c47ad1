"""Settings: precedence, unknown keys, types, secrets, and where each value came from."""

# ruff: noqa: RUF009 - settings are dataclass fields

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from isthmus.kit import settings
from isthmus.kit.errors import ConfigError
from isthmus.kit.settings import Source, setting


@dataclass(frozen=True, slots=True)
class Config:
    url: str = setting("Where.")
    slots: Annotated[int, Field(ge=1, le=10)] = setting("How many.", default=4, unit="things", why="Enough.")
    queues: tuple[str, ...] = setting("Which.", default=("default",))
    labels: dict[str, str] = setting("What.", default={})
    command: tuple[str, ...] = setting("Program.", default=("a", "b c"), words=True)
    name: str = setting("Who.", derive=lambda values: f"{values['url']}-{values['slots']}")
    token: str | None = setting("Secret.", default=None, secret=True, sources=(Source.ENVIRONMENT, Source.DEFAULT))
    path: Path | None = setting("File.", default=None)


def load(
    flags: dict[str, object] | None = None, environment: dict[str, str] | None = None, file: Path | None = None
) -> settings.Loaded[Config]:
    return settings.load(
        Config,
        flags={"url": "u"} if flags is None else flags,
        environment=environment or {},
        prefix="APP_",
        file=file,
        ignored=["config"],
    )


def test_flags_win_over_environment_over_file_over_default(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text('url = "file"\nslots = 5\nqueues = ["x", "y"]\nlabels = {a = "1"}\n', encoding="utf-8")
    loaded = load({"url": "flag", "slots": None}, {"APP_URL": "environment", "APP_SLOTS": "6"}, file)
    assert loaded.config == Config(
        url="flag", slots=6, queues=("x", "y"), labels={"a": "1"}, name="flag-6", command=("a", "b c")
    )
    assert {name: str(origin) for name, origin in loaded.origins.items()} == {
        "url": "flag --url",
        "slots": "environment APP_SLOTS",
        "queues": f"file {file}",
        "labels": f"file {file}",
        "command": "default",
        "name": "default",
        "token": "default",
        "path": "default",
    }


def test_texts_become_lists_tables_and_commands() -> None:
    config = load(
        environment={
            "APP_QUEUES": "a, b,,c",
            "APP_LABELS": "x=1,y = a=b",
            "APP_COMMAND": "run 'this one'",
            "APP_PATH": "/f",
        }
    ).config
    assert config.queues == ("a", "b", "c")
    assert config.labels == {"x": "1", "y": "a=b"}
    assert config.command == ("run", "this one")
    assert config.path == Path("/f")


@pytest.mark.parametrize(
    ("flags", "environment", "toml", "hint"),
    [
        ({"url": "u", "slot": 1}, {}, "", "--slots"),
        ({"url": "u"}, {"APP_QEUES": "a"}, "", "APP_QUEUES"),
        ({"url": "u"}, {}, "lables = {}", "labels"),
        ({"url": "u"}, {"APP_ZZZZZZ": "1"}, "", "Settings are: APP_URL"),
    ],
)
def test_what_is_unknown_is_refused_with_what_was_probably_meant(
    tmp_path: Path, flags: dict[str, object], environment: dict[str, str], toml: str, hint: str
) -> None:
    file = tmp_path / "c.toml"
    file.write_text(toml, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(flags, environment, file)
    assert caught.value.code == "config_unknown_key"
    assert hint in caught.value.hint


def test_what_kubernetes_injects_and_what_others_read_is_not_ours() -> None:
    load(
        environment={
            "APP_CONFIG": "/c.toml",
            "APP_SERVICE_HOST": "10.0.0.1",
            "APP_SERVICE_PORT_HTTP": "80",
            "APP_PORT": "tcp://10.0.0.1:80",
            "APP_PORT_80_TCP_ADDR": "10.0.0.1",
            "OTHER": "x",
        }
    )


@pytest.mark.parametrize(
    ("environment", "text"),
    [
        ({"APP_SLOTS": "0"}, "slots: Input should be greater than or equal to 1 (got '0' from environment APP_SLOTS)"),
        ({"APP_SLOTS": "many"}, "got 'many' from environment APP_SLOTS"),
        ({"APP_LABELS": "a"}, "is not a list of name=value"),
    ],
)
def test_wrong_values_say_which_where_and_why(environment: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environment=environment)
    assert text in str(caught.value)


def test_what_is_required_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        load({})
    assert caught.value.code == "config_missing"
    assert "--url or APP_URL" in caught.value.hint


@pytest.mark.parametrize("content", [b"= 3", b"\xff\xfe", None])
def test_a_file_that_cannot_be_used(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "c.toml"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(file=file)
    assert caught.value.code == ("config_file_unreadable" if content is None else "config_file_malformed")


def test_a_secret_comes_only_from_where_it_may_and_is_never_shown() -> None:
    loaded = load(environment={"APP_TOKEN": "hunter2"})
    assert loaded.config.token == "hunter2"
    assert "hunter2" not in repr(loaded) + str(settings.explain(loaded))
    with pytest.raises(ConfigError) as caught:
        load({"url": "u", "token": "hunter2"})
    assert caught.value.code == "config_wrong_source"
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_explain_tells_everything() -> None:
    lines = {line.name: line for line in settings.explain(load(environment={"APP_SLOTS": "7"}))}
    slots = lines["slots"]
    assert (slots.value, str(slots.origin), slots.default, slots.unit, slots.meaning, slots.why) == (
        "7",
        "environment APP_SLOTS",
        "4",
        "things",
        "How many.",
        "Enough.",
    )
    assert lines["url"].default == "(required)"
    assert lines["name"].default == "(derived)"
    assert lines["labels"].value == "(not set)"
    assert lines["command"].value == "a 'b c'"


def test_a_default_table_is_not_shared() -> None:
    load().config.labels["x"] = "1"
    assert load().config.labels == {}
