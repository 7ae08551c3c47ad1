"""Text from elsewhere, written so that a line stays one line and shows what is in it.

A terminal obeys escape sequences, and a page shows text in the order that it asks for: what was logged by, or about, a
stranger is shown with its control characters written out instead.
"""

import re
from typing import Final

#: C0 and C1 controls with DEL, line and paragraph separators, what changes the direction of writing, lone surrogates.
_HIDDEN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")


def visible(text: str) -> str:
    """``text`` with each hidden character written as in Python: ``\\x1b``, ``\\n``, ``\\u202e``."""
    return _HIDDEN.sub(_written, text)


def _written(found: re.Match[str]) -> str:
    return ascii(found.group())[1:-1]
