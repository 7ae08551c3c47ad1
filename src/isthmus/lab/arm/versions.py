"""The api-version of a request: required, a date, perhaps of a preview.

The lab has one behaviour for all of them. Versions since 2020 are accepted, and older ones of what clients still ask
for by them (the ``az`` command uses 2018-09-01 for private DNS, and 2018-01-01 for metrics).
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Final

from isthmus.lab.errors import ArmError

_FORM: Final = re.compile(r"(\d{4})-(\d{2})-(\d{2})(-preview|-alpha|-beta|-privatepreview)?", re.IGNORECASE)
_SINCE: Final = date(2020, 1, 1)
#: Older versions that current clients use, by kind or namespace in lower case.
_OLDER: Final = {
    "microsoft.network/privatednszones": date(2018, 9, 1),
    "microsoft.resources": date(2015, 1, 1),
    "microsoft.authorization": date(2015, 1, 1),
    "microsoft.insights": date(2017, 5, 1),
}
#: What is named when one is refused.
NAMED: Final = (
    "2024-05-01",
    "2024-03-01",
    "2024-01-01",
    "2023-11-01",
    "2023-09-01",
    "2022-09-01",
    "2021-08-01",
    "2020-11-01",
)


def read(query: Mapping[str, str]) -> str:
    """The api-version of a request. Raises errors.ArmError (400) when it is missing or is none."""
    version = query.get("api-version", "")
    if not version:
        raise ArmError(
            400,
            "MissingApiVersionParameter",
            "The api-version query parameter (?api-version=) is required for all requests.",
        )
    if _date(version) is None:
        raise ArmError(
            400,
            "InvalidApiVersionParameter",
            f"The api-version '{version}' is invalid. The supported versions are '{','.join(NAMED)}'.",
        )
    return version


def check(version: str, kind: str, location: str | None = None) -> None:
    """Refuse a version that is older than what the lab speaks of a kind. Raises errors.ArmError (400)."""
    found = _date(version)
    words = kind.lower().split("/")
    since = next(
        (_OLDER[name] for count in (2, 1) if (name := "/".join(words[:count])) in _OLDER),
        _SINCE,
    )
    if found is not None and found >= since:
        return
    namespace, _, rest = kind.partition("/")
    raise ArmError(
        400,
        "NoRegisteredProviderFound",
        f"No registered resource provider found for location '{location or 'global'}' and API version '{version}' for "
        f"type '{rest or namespace}'. The supported api-versions are '{', '.join(NAMED)}'.",
    )


def _date(version: str) -> date | None:
    match = _FORM.fullmatch(version)
    if match is None or not version.isascii():
        return None
    try:
        return date(int(match[1]), int(match[2]), int(match[3]))
    except ValueError:
        return None
