"""Lists in pages: ``$top``, ``$skiptoken`` and ``nextLink``.

A token names the last resource of its page, so that pages neither repeat nor leave out what others create or delete
meanwhile.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeVar
from urllib.parse import quote

from isthmus.lab.arm.calls import Call
from isthmus.lab.errors import ArmError

_T = TypeVar("_T")
#: How long pages are when the client does not say.
PAGE: Final = 100
_LARGEST: Final = 1000


def cut(call: Call, keys: Sequence[str], page: int = PAGE) -> tuple[slice, str | None]:
    """Which of the things with these keys are in the page that was asked for, and the link to the next page.

    Raises errors.ArmError (400).
    """
    size = _size(call.query, page)
    begin = _begin(call.query, keys)
    end = begin + size
    if end >= len(keys):
        return slice(begin, None), None
    token = base64.urlsafe_b64encode(json.dumps([end, keys[end - 1]]).encode()).decode()
    query = {name: value for name, value in call.query.items() if name != "$skiptoken"} | {"$skiptoken": token}
    text = "&".join(f"{quote(name)}={quote(value, safe='')}" for name, value in query.items())
    path = "/".join(quote(part, safe="") for part in call.segments)
    return slice(begin, end), f"{call.origin}/{path}?{text}"


def shown(values: Sequence[Any], link: str | None) -> dict[str, Any]:
    """The body of a list."""
    return {"value": list(values), **({"nextLink": link} if link else {})}


def _size(query: Mapping[str, str], page: int) -> int:
    given = query.get("$top")
    if not given:
        return page
    if not (given.isascii() and given.isdigit() and len(given) < 10 and int(given) > 0):
        raise ArmError(400, "InvalidTopParameter", f"The value '{given}' of the query parameter '$top' is invalid.")
    return min(int(given), _LARGEST)


def _begin(query: Mapping[str, str], keys: Sequence[str]) -> int:
    token = query.get("$skiptoken")
    if not token:
        return 0
    try:
        count, last = json.loads(base64.urlsafe_b64decode(token.encode("ascii")))
        if not isinstance(count, int) or isinstance(count, bool) or not isinstance(last, str) or count < 0:
            raise ValueError("a token of another kind")
    except (ValueError, TypeError, RecursionError):
        raise ArmError(400, "InvalidSkipToken", f"The skip token '{token[:200]}' is invalid.") from None
    return keys.index(last) + 1 if last in keys else min(count, len(keys))
