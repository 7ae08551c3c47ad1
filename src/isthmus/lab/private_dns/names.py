"""Names of private DNS: which zones may be made, which record sets may lie in them, and what is a domain name.

Sources: "What is a private Azure DNS zone", section Restrictions (reserved names, two to 34 labels); "Private DNS
records overview"; RFC 1035 and RFC 2181 for lengths; wordings as clients of the service have reported them.
"""

import re
from typing import Final

from isthmus.lab import errors

APEX: Final = "@"
WILDCARD: Final = "*"

_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.IGNORECASE)
_MAX_NAME: Final = 253
_MAX_ZONE_LABELS: Final = 34

#: Zones of Azure's own. Names below them are allowed (``privatelink.blob.core.windows.net``).
_RESERVED: Final = frozenset(
    {
        "azclient.ms",
        "azure-api.net",
        "azure.com",
        "cloudapp.net",
        "core.windows.net",
        "microsoft.com",
        "msidentity.com",
        "trafficmanager.net",
        "windows.net",
        "azure.us",
        "usgovcloudapi.net",
        "usgovtrafficmanager.net",
        "azure.cn",
        "chinacloudapi.cn",
    }
)


def is_domain(text: str) -> bool:
    """Whether ``text`` is a domain name, with or without the last dot. The root alone is none."""
    name = text.removesuffix(".")
    return 0 < len(name) <= _MAX_NAME and all(_LABEL.fullmatch(label) for label in name.split("."))


def check_zone(name: str) -> None:
    """Refuse what cannot be a private zone's name (400, BadRequest)."""
    if not is_domain(name) or name.endswith("."):
        raise errors.ArmError(400, "BadRequest", f"The zone name '{name}' is invalid.")
    labels = name.split(".")
    if len(labels) < 2:
        raise errors.ArmError(
            400,
            "BadRequest",
            f"The zone name '{name}' does not have enough labels. Zone names must have two or more labels.",
        )
    if len(labels) > _MAX_ZONE_LABELS:
        raise errors.ArmError(
            400,
            "BadRequest",
            f"The zone name '{name}' has too many labels. Zone names must have {_MAX_ZONE_LABELS} or fewer labels.",
        )
    if name.lower() in _RESERVED:
        raise errors.ArmError(
            400,
            "BadRequest",
            f"The Private DNS zone name '{name}' is not permitted as it is a reserved Azure infrastucture domain and "
            "creating such zones may have unintended consequences for DNS resolution for services deployed in your "
            "virtual networks. Refer "
            "https://docs.microsoft.com/en-us/azure/dns/private-dns-privatednszone#restrictions for more details.",
        )


def check_relative(name: str, zone: str) -> None:
    """Refuse what cannot be a record set's name in ``zone`` (400, BadRequest). ``*`` may be the first label only."""
    rest = name.removeprefix("*.")
    whole = fqdn(name, zone)
    if name in {APEX, WILDCARD} or (is_domain(rest) and not rest.endswith(".") and len(whole) - 1 <= _MAX_NAME):
        return
    raise errors.ArmError(
        400,
        "BadRequest",
        f"The domain name '{name}.{zone}' is invalid. The provided record set relative name '{name}' is invalid.",
        is_bare=True,
    )


def check_domain(text: object) -> str:
    """``text`` as a domain name that a record leads to; 400, BadRequest if it is none."""
    if isinstance(text, str) and is_domain(text):
        return text
    raise errors.ArmError(400, "BadRequest", f"The domain name '{text}' is invalid.", is_bare=True)


def fqdn(name: str, zone: str) -> str:
    """``www.contoso.com.``: the whole name of a record set, with the last dot."""
    return f"{zone}." if name == APEX else f"{name}.{zone}."


def is_private_link(zone: str) -> bool:
    """Whether a zone is one of private links, which alone may fall back to public names."""
    return "privatelink" in zone.lower().split(".")
