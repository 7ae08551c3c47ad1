"""JSON as templates are written: comments, names without quotes, a comma too many, strings over several lines.

The resource manager reads templates so, and the ``az`` command relies on it: it sends a template file as it is.
"""

import json
import re
from typing import Any, Final

#: What does not end goes on to the end, so that no text is read twice.
_PIECE: Final = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*+(?:"|\Z))|(?P<comment>//[^\n]*+|/\*(?:.*?\*/|.*\Z))|"""
    r"""(?P<name>(?<![\w$])[A-Za-z_$][\w$]*+)(?=\s*:)|(?P<comma>,)(?=(?:\s|//[^\n]*\n|/\*.*?\*/)*+[}\]])""",
    re.DOTALL,
)


def parse(text: str) -> Any:
    """The value in ``text``. Raises ValueError."""
    return json.loads(_PIECE.sub(_strict, text), strict=False, parse_constant=_no_constant)


def _strict(match: re.Match[str]) -> str:
    match match.lastgroup:
        case "text":
            return match[0]
        case "name":
            return json.dumps(match[0])
        case _:
            return " "


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")
