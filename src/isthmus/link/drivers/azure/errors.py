"""What Azure says no with -> our errors, with what to do about it.

Codes and words are Azure's, as its documents, its SDKs' recordings and users' reports have them. What is not known here
becomes ``cloud_refused`` with Azure's own words, which are mostly good.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    DecodeError,
    HttpResponseError,
    IncompleteReadError,
    ServiceRequestError,
    ServiceResponseError,
)

from isthmus.kit.errors import IsthmusError
from isthmus.link import names
from isthmus.link.errors import (
    BusyError,
    ChangedMeanwhileError,
    CloudRefusedError,
    CloudUnreachableError,
    NotPermittedError,
    NotThereError,
    SignInError,
)

#: "... does not have authorization to perform action 'A' over scope 'S' ..."
_ACTION: Final = re.compile(r"perform action\(?s?\)? '(?P<action>[^']+)' (?:over|on) (?:the )?scope '(?P<scope>[^']+)'")
#: "... does not have permission to perform action(s) 'A' on the linked scope(s) 'S' ..."
_LINKED: Final = re.compile(
    r"does not have permission to perform action\(?s?\)? '(?P<action>[^']+)' "
    r"on the linked scope\(?s?\)? '(?P<scope>[^']+)'"
)
#: "Resource R referenced by resource Q was not found."
_REFERENCE: Final = re.compile(r"Resource (?P<referenced>\S+) referenced by resource \S+ was not found", re.IGNORECASE)
_QUOTED: Final = re.compile(r"'([^']+)'")

_BUSY: Final = {
    "anotheroperationinprogress",
    "retryableerror",
    "retryableerrorduetoanotheroperation",
    "canceledandsupersededduetoanotheroperation",
    "referencedresourcenotprovisioned",
    "toomanyrequests",
    "operationnotallowedduetoanotheroperation",
    "subscriptionrequeststhrottled",
    "resourcegroupbeingdeleted",
    "internalservererror",
    "serverbusy",
    "servicetimeout",
    "servertimeout",
}
#: HTTP says: not now.
_PASSING: Final = {408, 429, 500, 502, 503, 504}
_CHANGED: Final = {"preconditionfailed", "parentresourcenotfound", "conflict", "cannotdeleteresource"}

#: Azure's code -> our code and what to do.
_REFUSALS: Final = {
    "privatelinkservicecannotbecreatedinsubnetthathasnetworkpoliciesenabled": (
        "subnet_policies",
        "az network vnet subnet update --ids SUBNET --private-link-service-network-policies Disabled",
    ),
    "privateendpointcannotbecreatedinsubnetthathasnetworkpoliciesenabled": (
        "subnet_policies",
        "az network vnet subnet update --ids SUBNET --private-endpoint-network-policies Disabled",
    ),
    "subnetisfull": ("subnet_full", "Use another subnet, or free an address in this one."),
    "privateipaddressinreservedrange": ("address_not_free", "Azure keeps the first four addresses and the last one."),
    "privateipaddressnotinsubnet": (
        "address_not_free",
        "Choose an address of the subnet, or leave the choice to Azure.",
    ),
    "privateipaddressisallocated": ("address_not_free", "Choose another address, or leave the choice to Azure."),
    "privatelinkservicenotvisible": (
        "alias_not_visible",
        "Ask the provider to make the link service visible to this subscription.",
    ),
    "privateendpointsperprivatelinkservicelimitreached": (
        "link_service_full",
        "Ask the provider: its link service has as many endpoints as Azure allows.",
    ),
    "missingsubscriptionregistration": (
        "provider_not_registered",
        "az provider register --namespace Microsoft.Network",
    ),
    "invalidresourcelocation": (
        "location_mismatch",
        "There is one of this name in another region: choose another name.",
    ),
    "locationnotavailableforresourcetype": ("location_mismatch", "Choose a region that has private links."),
    "requestdisallowedbypolicy": ("policy_denies", "Ask who owns the Azure Policy that is named here."),
    "scopelocked": ("scope_locked", "Remove the lock, or ask who set it."),
    "privateendpointconnectioncannotbeupdated": (
        "connection_final",
        "A rejected or removed connection stays so: remove it, and have the customer create the endpoint again.",
    ),
    "privatelinkservicewithprivateendpointconnectionscannotbedeleted": (
        "customers_connected",
        "Remove its connections first.",
    ),
}


@dataclass(frozen=True, slots=True)
class Said:
    """What Azure said: HTTP's status, its code (lower case), its words, and when to come back."""

    status: int
    code: str
    words: str
    retry_after_seconds: float = 0.0


def translated(error: AzureError, doing: str) -> IsthmusError:
    """Our error for one of the SDK's; ``doing`` names what was tried, as in ``create endpoint e``."""
    match error:
        case HttpResponseError() if error.response is not None or error.error is not None:
            return refusal(_said(error), doing)
        case ClientAuthenticationError():
            return _sign_in(error.message)
        case DecodeError():
            return CloudUnreachableError(
                f"Something other than Azure answered ({doing})",
                code="cloud_answered_strangely",
                hint=f"Look for a proxy or a captive portal in between. It said: {_short(error.message)}",
            )
        case ServiceRequestError() | ServiceResponseError() | IncompleteReadError():
            return _unreachable(error, doing)
        case _:
            return CloudUnreachableError(
                f"Azure did not answer ({doing}): {_short(error.message)}", code="cloud_unreachable", hint=_NETWORK
            )


_NETWORK: Final = "Look at the network, proxy settings (HTTPS_PROXY), and the resource manager's URL."


def _unreachable(error: AzureError, doing: str) -> IsthmusError:
    if "CERTIFICATE_VERIFY_FAILED" in error.message:
        return CloudRefusedError(
            f"The resource manager's certificate is not trusted ({doing})",
            code="cloud_untrusted",
            hint="Name the file of its authority with --ca-file, or in SSL_CERT_FILE.",
        )
    return CloudUnreachableError(
        f"Azure cannot be reached ({doing}): {_short(error.message)}", code="cloud_unreachable", hint=_NETWORK
    )


def _said(error: HttpResponseError) -> Said:
    headers: Any = getattr(error.response, "headers", {})
    code, words = "", ""
    if error.error is not None:
        # What is behind an operation's failure may be one level down.
        told = [(one.code or "", one.message or "") for one in _levels(error.error)]
        code, words = next((one for one in told if one[0].lower() in _REFUSALS), told[0])
    return Said(error.status_code or 0, code, words or error.message, _seconds(headers.get("Retry-After")))


def _levels(error: Any) -> Iterator[Any]:
    yield error
    for one in error.details or ():
        yield from _levels(one)


def _seconds(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0  # a date: our own waiting is good enough


def refusal(said: Said, doing: str) -> IsthmusError:
    """Our error for an answer of Azure's."""
    for judge in (_busy, _forbidden, _missing, _linked_elsewhere, _changed, _known):
        if (found := judge(said, doing)) is not None:
            return found
    words = _short(said.words)
    return CloudRefusedError(
        f"Azure refuses to {doing}: {words or said.status} [{said.code or said.status}]",
        code="cloud_refused",
        hint="What is in brackets is Azure's own code; its documents explain it.",
        cloud_code=said.code,
    )


def _busy(said: Said, doing: str) -> IsthmusError | None:
    code = said.code.lower()
    if said.status not in _PASSING and code not in _BUSY:
        return None
    is_throttled = said.status == 429 or code in {"toomanyrequests", "subscriptionrequeststhrottled"}
    which = "throttled" if is_throttled else "operation_in_progress" if "another" in code else "cloud_failed"
    return BusyError(
        f"Azure cannot {doing} now: {_short(said.words) or said.code}",
        code=which,
        hint="Try again in a while. Azure's own state: https://status.azure.com",
        retry_after_seconds=said.retry_after_seconds,
    )


def _forbidden(said: Said, doing: str) -> IsthmusError | None:
    if said.status == 401:
        return _sign_in(said.words)
    is_about_roles = said.code.lower() in {"authorizationfailed", "linkedauthorizationfailed", ""}
    if said.status == 403 and (is_about_roles or "perform action" in said.words):
        return _not_permitted(said, doing)
    return None


def _changed(said: Said, doing: str) -> IsthmusError | None:
    if said.status != 412 and said.code.lower() not in _CHANGED:
        return None
    return ChangedMeanwhileError(
        f"It changed while Isthmus was about to {doing}: {_short(said.words)}",
        code="changed_meanwhile",
        hint="Try again.",
    )


def _known(said: Said, doing: str) -> IsthmusError | None:
    if said.code.lower() not in _REFUSALS:
        return None
    ours, hint = _REFUSALS[said.code.lower()]
    return CloudRefusedError(
        f"Azure refuses to {doing}: {_short(said.words)}", code=ours, hint=hint, cloud_code=said.code
    )


def _sign_in(words: str) -> SignInError:
    return SignInError(
        f"Azure does not accept who we are: {_short(words)}",
        code="sign_in_failed",
        hint="Sign in with: az login. Or set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_CLIENT_SECRET, or run where a "
        "managed identity is.",
    )


def _not_permitted(said: Said, doing: str) -> NotPermittedError:
    found = _LINKED.search(said.words) or _ACTION.search(said.words)
    action, scope = (found["action"], found["scope"]) if found else ("", "")
    missing = f"needs {action} on {scope}" if found else _short(said.words)
    hint = f"Have a role that contains {action} assigned on {scope}." if found else "Ask for a role that contains it."
    return NotPermittedError(
        f"No permission to {doing}: it {missing}", hint=hint, action=action, scope=scope, cloud_code=said.code
    )


def _linked_elsewhere(said: Said, _doing: str) -> IsthmusError | None:
    words = _short(said.words)
    if "overlapping namespaces" not in words:
        return None
    return CloudRefusedError(
        f"The network is linked with another zone of this name, maybe in another subscription: {words}",
        code="zone_linked_elsewhere",
        hint="Put the record into that zone (--zone-resource-group), or unlink the network from it.",
    )


#: Kind of resource -> what people call it, and how it is named on the command line.
_KINDS: Final = {
    names.NETWORK.lower(): ("network", "Name it with --vnet, as a name in the resource group or as an id."),
    names.SUBNET.lower(): ("subnet", "Name one of the network's subnets with --subnet."),
    names.ENDPOINT.lower(): ("endpoint", "List them with: isthmus endpoint list."),
    names.SERVICE.lower(): ("link service", "Look at its name, and whether it is published."),
    names.ZONE.lower(): ("zone", "Look at its name and resource group."),
}


def not_there(resource_id: str) -> NotThereError:
    """The error for a resource that was named and is not there."""
    where = names.parse_id(resource_id)
    kind, hint = _KINDS.get(where.kind.lower(), ("resource", "Look at its name, resource group and region."))
    return NotThereError(kind, where.name, hint=hint)


def _missing(said: Said, _doing: str) -> IsthmusError | None:
    code, quoted = said.code.lower(), _QUOTED.findall(said.words)
    if code == "resourcegroupnotfound":
        return NotThereError("resource group", _first(quoted), hint="Name one that exists with --resource-group.")
    if code in {"subscriptionnotfound", "invalidsubscriptionid"}:
        return NotThereError("subscription", _first(quoted), hint="List them with: az account list.")
    if code == "invalidresourcereference":
        return _dangling(said)
    return None


def _first(quoted: list[str]) -> str:
    return quoted[0] if quoted else "of this name"


def _dangling(said: Said) -> IsthmusError:
    found = _REFERENCE.search(said.words)
    referenced = found["referenced"] if found else ""
    if referenced.lower().rstrip(".").endswith(names.ALIAS_SUFFIX):
        return CloudRefusedError(
            f"No link service has the alias {referenced}",
            code="alias_not_found",
            hint="Compare it with what the provider shows; a service that was published anew has another alias.",
            cloud_code=said.code,
        )
    if referenced.startswith("/"):
        missing = not_there(referenced)
        return NotThereError(
            missing.kind, missing.name, hint=f"{missing.hint} It has to be in the same region as what refers to it."
        )
    return CloudRefusedError(
        f"Azure does not find something that was referred to: {_short(said.words)}",
        code="reference_not_found",
        hint="Look at names and regions.",
        cloud_code=said.code,
    )


def _short(words: str) -> str:
    """The first 400 characters, on one line."""
    line = " ".join(words.split())
    return line if len(line) <= 400 else f"{line[:399]}…"


def silent(seconds: float) -> CloudUnreachableError:
    """The error for a call that nobody answered."""
    return CloudUnreachableError(
        f"Azure has not answered within {seconds:.0f} seconds", code="cloud_unreachable", hint=_NETWORK
    )
