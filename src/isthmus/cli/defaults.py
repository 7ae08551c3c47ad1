"""How the default of a setting reads, in help texts and in documents."""

import dataclasses
import shlex
import sys
from typing import Any

from isthmus.kit.settings import Setting


def is_required(field: "dataclasses.Field[Any]", about: Setting) -> bool:
    """Whether the setting has to be given."""
    missing = dataclasses.MISSING
    return about.derive is None and field.default is missing and field.default_factory is missing


def shown(field: "dataclasses.Field[Any]", about: Setting) -> str:
    """The default with its unit; empty when nothing is set by default or it depends on other settings."""
    match field.default:
        case dataclasses.MISSING | None | () | "":
            return ""
        case bool() as flag:
            return str(flag).lower()
        case tuple() as values:
            if about.words:  # a command line; whatever Python this is, it is the one that runs here
                return shlex.join("python" if word == sys.executable else word for word in values)
            return ", ".join(map(str, values))
        case float() as number:
            text = f"{number:g}"
        case other:
            text = str(other)
    return f"{text} {about.unit}" if about.unit else text
