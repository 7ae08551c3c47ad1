"""One loader for settings: flags, then environment, then file, then default.

A package's settings are one frozen dataclass whose fields are made by ``setting``: meaning, unit, default, why.
``load`` gathers the values, refuses what it does not know (and says what was probably meant), checks types and ranges
by the fields' annotations, and remembers where each value came from; ``explain`` shows all of it with secrets masked.
Nothing is read at import time, and a config that exists is valid.
"""

import ctypes
import dataclasses
import difflib
import os
import re
import shlex
import tomllib
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, Generic, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from isthmus.kit.errors import ConfigError

C = TypeVar("C")

_METADATA_KEY: Final = "isthmus"
_MASK: Final = "***"

#: What Kubernetes puts into every container for a Service that happens to be called like our prefix.
_KUBERNETES: Final = re.compile(r"(SERVICE_HOST|SERVICE_PORT(_.+)?|PORT(_\d+_(TCP|UDP|SCTP)(_.+)?)?)$")


class Source(StrEnum):
    """Where a value came from, the strongest first."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    FILE = "file"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Setting:
    """What there is to know of one field."""

    meaning: str
    unit: str = ""
    why: str = ""
    #: Never shown.
    secret: bool = False
    #: Turns a value into the text that may be shown of it.
    show: Callable[[Any], str] | None = None
    #: Where the value may come from.
    sources: frozenset[Source] = frozenset(Source)
    #: The default when it depends on the fields before this one.
    derive: Callable[[Mapping[str, Any]], Any] | None = None
    #: A text is a command line, not a list with commas.
    words: bool = False


def setting(
    meaning: str,
    *,
    default: Any = dataclasses.MISSING,
    derive: Callable[[Mapping[str, Any]], Any] | None = None,
    unit: str = "",
    why: str = "",
    secret: bool = False,
    show: Callable[[Any], str] | None = None,
    sources: Iterable[Source] = Source,
    words: bool = False,
) -> Any:
    """A dataclass field. Without ``default`` and ``derive`` the setting is required."""
    about = Setting(meaning, unit, why, secret, show, frozenset(sources), derive, words)
    metadata = {_METADATA_KEY: about}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=default.copy, repr=not secret, kw_only=True, metadata=metadata)
    return dataclasses.field(default=default, repr=not secret, kw_only=True, metadata=metadata)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where one value came from: the kind of source, and the flag, variable or file."""

    source: Source
    place: str = ""

    def __str__(self) -> str:
        return f"{self.source} {self.place}".strip()


@dataclass(frozen=True, slots=True)
class Loaded(Generic[C]):
    """A config and the origin of each of its values."""

    config: C
    origins: Mapping[str, Origin]


@dataclass(frozen=True, slots=True)
class Explained:
    """One line of ``explain``. ``value`` and ``default`` are texts without secrets."""

    name: str
    value: str
    origin: Origin
    default: str
    unit: str
    meaning: str
    why: str


def load(
    kind: type[C],
    *,
    flags: Mapping[str, object],
    environment: Mapping[str, str],
    prefix: str,
    file: Path | None = None,
    ignored: Iterable[str] = (),
) -> Loaded[C]:
    """The settings of ``kind``. A flag that is None was not given. Raises ConfigError.

    Environment variables are ``prefix`` and the field's name in capitals; ``ignored`` names fields-like variables that
    someone else reads, such as the one that names the file.
    """
    about = settings_of(kind)
    values: dict[str, object] = {}
    origins: dict[str, Origin] = {}

    def take(name: str, value: object, origin: Origin, write: Callable[[str], str]) -> None:
        _check(name, about, origin, write)
        values[name], origins[name] = value, origin

    # The weakest source first, so that the stronger ones write over it.
    if file is not None:
        for name, value in _read_file(file).items():
            take(name, value, Origin(Source.FILE, str(file)), str)
    skipped = {prefix + name.upper() for name in ignored}
    for variable, text in environment.items():
        rest = variable.removeprefix(prefix)
        if variable.startswith(prefix) and variable not in skipped and not _KUBERNETES.match(rest):
            take(rest.lower(), text, Origin(Source.ENVIRONMENT, variable), lambda known: prefix + known.upper())
    for name, given in flags.items():
        if given is not None:
            take(name, given, Origin(Source.FLAG, _flag(name)), _flag)
    return Loaded(_build(kind, about, values, origins, prefix), origins)


def settings_of(kind: type[Any]) -> dict[str, Setting]:
    """The settings of a config class, in order."""
    return {one.name: one.metadata[_METADATA_KEY] for one in dataclasses.fields(kind)}


def explain(loaded: Loaded[Any]) -> tuple[Explained, ...]:
    """Each setting with its value, where that came from, and what it is for. Secrets are masked."""
    return tuple(
        dataclasses.replace(
            one,
            value=_shown(about, getattr(loaded.config, one.name)),
            origin=loaded.origins[one.name],
        )
        for one, about in zip(describe(type(loaded.config)), settings_of(type(loaded.config)).values(), strict=True)
    )


def describe(kind: type[Any]) -> tuple[Explained, ...]:
    """Each setting of a config class with its default for its value, and what it is for."""
    lines = []
    for one in dataclasses.fields(kind):
        about: Setting = one.metadata[_METADATA_KEY]
        value = _default(one)
        if value is not dataclasses.MISSING:
            default = _shown(about, value)
        else:
            default = "(derived)" if about.derive is not None else "(required)"
        lines.append(
            Explained(one.name, default, Origin(Source.DEFAULT), default, about.unit, about.meaning, about.why)
        )
    return tuple(lines)


def take_secret(variable: str) -> str | None:
    """The value of an environment variable, which is removed from this process for good.

    ``/proc/<pid>/environ`` shows the memory that the kernel filled when the program began, whatever happens to the
    environment later, so that memory is overwritten as well.
    """
    value = os.environ.pop(variable, None)
    if value is None:
        return None
    # Fields 50 and 51 of proc(5), counted from 1; the second, the program's name, may hold spaces.
    fields = Path("/proc/self/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
    start, end = int(fields[47]), int(fields[48])
    block = ctypes.string_at(start, end - start)
    begin = 0
    for entry in block.split(b"\0"):
        name, equals, secret = entry.partition(b"=")
        if equals and name == variable.encode():
            ctypes.memset(start + begin + len(name) + 1, ord("*"), len(secret))
        begin += len(entry) + 1
    return value


def _default(field: "dataclasses.Field[Any]") -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _read_file(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"the configuration file {file} cannot be read: {error.strerror}",
            code="config_file_unreadable",
            hint="Check the path and its permissions.",
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the configuration file {file} is not TOML: {error}", code="config_file_malformed", hint="See toml.io."
        ) from None


def _check(name: str, about: Mapping[str, Setting], origin: Origin, write: Callable[[str], str]) -> None:
    """Whether there is a setting ``name`` that may come from ``origin``; ``write`` spells it as there."""
    if name not in about:
        near = difflib.get_close_matches(name, about, n=1)
        raise ConfigError(
            f"{write(name)} is not a setting (from {origin})",
            code="config_unknown_key",
            hint=f"Did you mean {write(near[0])}?" if near else f"Settings are: {', '.join(map(write, about))}.",
        )
    allowed = about[name].sources
    if origin.source not in allowed:
        raise ConfigError(
            f"{name} cannot be set by {origin}",
            code="config_wrong_source",
            hint=f"Set it by: {', '.join(one for one in Source if one in allowed and one is not Source.DEFAULT)}.",
        )


def _build(
    kind: type[C], about: Mapping[str, Setting], values: dict[str, object], origins: dict[str, Origin], prefix: str
) -> C:
    hints = typing.get_type_hints(kind)
    for one in dataclasses.fields(cast("Any", kind)):
        name = one.name
        if name in values:
            values[name] = _parsed(values[name], hints[name], about[name], origins[name])
            continue
        origins[name] = Origin(Source.DEFAULT)
        derive = about[name].derive
        if derive is not None:
            values[name] = derive(values)
        elif (default := _default(one)) is not dataclasses.MISSING:
            values[name] = default
        else:
            raise ConfigError(
                f"{name} is not set",
                code="config_missing",
                hint=f"{about[name].meaning} Set it with {_flag(name)} or {prefix}{name.upper()}.",
            )
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else ""
        reason = first["msg"].removeprefix("Value error, ")
        if name not in about:
            raise ConfigError(reason, code="config_invalid", hint="Correct the settings that it names.") from None
        given = repr(first["input"])
        if about[name].secret or about[name].show is not None:
            given = _shown(about[name], str(first["input"]))
        raise ConfigError(
            f"{name}: {reason} (got {given} from {origins[name]})",
            code="config_invalid",
            hint=about[name].meaning + (f" Unit: {about[name].unit}." if about[name].unit else ""),
        ) from None


def _parsed(value: object, hint: Any, about: Setting, origin: Origin) -> object:
    """``value`` with a text cut into the list or table that the field holds."""
    if not isinstance(value, str):
        return value
    kinds = {typing.get_origin(hint), *(typing.get_origin(one) for one in typing.get_args(hint))}
    if about.words:
        return shlex.split(value)
    if tuple in kinds:
        return [part.strip() for part in value.split(",") if part.strip()]
    if dict in kinds:
        pairs = [part.partition("=") for part in value.split(",") if part.strip()]
        if any(not equals for _, equals, _ in pairs):
            raise ConfigError(
                f"{value!r} from {origin} is not a list of name=value", code="config_invalid", hint=about.meaning
            )
        return {key.strip(): one.strip() for key, _, one in pairs}
    return value


def _shown(about: Setting, value: object) -> str:
    if value is None or value in ("", (), {}):
        return "(not set)"
    if about.secret:
        return _MASK
    if about.show is not None:
        return about.show(value)
    match value:
        case tuple():
            return shlex.join(value) if about.words else ", ".join(map(str, value))
        case dict():
            return ", ".join(f"{key}={one}" for key, one in value.items())
        case _:
            return str(value)
