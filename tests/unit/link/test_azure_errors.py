"""What Azure says no with, in its own words, and what becomes of it."""

import json
from typing import Any

import pytest
from azure.core.exceptions import (
    AzureError,
    ClientAuthenticationError,
    HttpResponseError,
    ServiceRequestError,
    ServiceResponseError,
)

from isthmus.kit.errors import IsthmusError, TemporaryError
from isthmus.link.drivers.azure.errors import Said, refusal, translated
from isthmus.link.errors import BusyError, ChangedMeanwhileError, NotPermittedError, NotThereError, SignInError

E = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.Network"


@pytest.mark.parametrize(
    ("status", "code", "words", "kind", "ours"),
    [
        (429, "TooManyRequests", "slow down", BusyError, "throttled"),
        (429, "", "", BusyError, "throttled"),
        (503, "", "", BusyError, "cloud_failed"),
        (500, "InternalServerError", "An error occurred.", BusyError, "cloud_failed"),
        (409, "AnotherOperationInProgress", "Another operation on this resource", BusyError, "operation_in_progress"),
        (429, "RetryableError", "A retryable error occurred.", BusyError, "throttled"),
        (409, "RetryableErrorDueToAnotherOperation", "x", BusyError, "operation_in_progress"),
        (200, "CanceledAndSupersededDueToAnotherOperation", "x", BusyError, "operation_in_progress"),
        (412, "PreconditionFailed", "etag mismatch", ChangedMeanwhileError, "changed_meanwhile"),
        (404, "ParentResourceNotFound", "Parent 'z' not found", ChangedMeanwhileError, "changed_meanwhile"),
        (409, "Conflict", "is already linked to the virtual network", ChangedMeanwhileError, "changed_meanwhile"),
        (401, "InvalidAuthenticationToken", "expired", SignInError, "sign_in_failed"),
        (
            404,
            "ResourceGroupNotFound",
            "Resource group 'rg' could not be found.",
            NotThereError,
            "resource_group_not_found",
        ),
        (
            404,
            "SubscriptionNotFound",
            "The subscription 's' could not be found.",
            NotThereError,
            "subscription_not_found",
        ),
        (400, "SubnetIsFull", "Subnet s ... does not have enough capacity", IsthmusError, "subnet_full"),
        (
            400,
            "PrivateLinkServiceCannotBeCreatedInSubnetThatHasNetworkPoliciesEnabled",
            "x",
            IsthmusError,
            "subnet_policies",
        ),
        (409, "MissingSubscriptionRegistration", "not registered", IsthmusError, "provider_not_registered"),
        (409, "InvalidResourceLocation", "exists in location", IsthmusError, "location_mismatch"),
        (403, "RequestDisallowedByPolicy", "Resource was disallowed by policy.", IsthmusError, "policy_denies"),
        (409, "ScopeLocked", "The scope cannot perform write operation", IsthmusError, "scope_locked"),
        (
            400,
            "BadRequest",
            "A virtual network cannot be linked to multiple zones with overlapping namespaces. You tried ...",
            IsthmusError,
            "zone_linked_elsewhere",
        ),
        (
            400,
            "InvalidResourceReference",
            f"Resource {E}/virtualNetworks/net referenced by resource {E}/privateEndpoints/e was not found.",
            NotThereError,
            "network_not_found",
        ),
        (
            400,
            "InvalidResourceReference",
            f"Resource {E}/virtualNetworks/net/subnets/s referenced by resource {E}/privateEndpoints/e was not found.",
            NotThereError,
            "subnet_not_found",
        ),
        (
            400,
            "InvalidResourceReference",
            f"Resource a.b.c.azure.privatelinkservice referenced by resource {E}/privateEndpoints/e was not found.",
            IsthmusError,
            "alias_not_found",
        ),
        (400, "InvalidResourceReference", "in other words", IsthmusError, "reference_not_found"),
        (400, "SomethingNew", "words", IsthmusError, "cloud_refused"),
    ],
)
def test_refusals(status: int, code: str, words: str, kind: type[IsthmusError], ours: str) -> None:
    error = refusal(Said(status, code, words), "create endpoint e")
    assert isinstance(error, kind)
    assert (error.code, bool(error.hint)) == (ours, True)
    assert isinstance(error, TemporaryError) is (
        ours in {"throttled", "cloud_failed", "operation_in_progress", "changed_meanwhile"}
    )


WRITE = "Microsoft.Network/privateEndpoints/write"
JOIN = "Microsoft.Network/virtualNetworks/subnets/join/action"
UNAUTHORIZED = (
    f"The client 'c' with object id 'o' does not have authorization to perform action '{WRITE}' over scope "
    f"'{E}/privateEndpoints/e' or the scope is invalid. If access was recently granted, refresh your credentials."
)
UNLINKED = (
    f"The client 'c' with object id 'o' has permission to perform action '{WRITE}' on scope '{E}/privateEndpoints/e'; "
    f"however, it does not have permission to perform action(s) '{JOIN}' on the linked scope(s) "
    f"'{E}/virtualNetworks/v/subnets/s' (respectively) or the linked scope(s) are invalid."
)


@pytest.mark.parametrize(
    ("code", "words", "action", "scope"),
    [
        ("AuthorizationFailed", UNAUTHORIZED, WRITE, f"{E}/privateEndpoints/e"),
        ("LinkedAuthorizationFailed", UNLINKED, JOIN, f"{E}/virtualNetworks/v/subnets/s"),
        ("AuthorizationFailed", "no", "", ""),
    ],
)
def test_a_missing_permission_is_named(code: str, words: str, action: str, scope: str) -> None:
    error = refusal(Said(403, code, words), "create endpoint e")
    assert isinstance(error, NotPermittedError)
    assert (error.action, error.scope, error.code) == (action, scope, "permission_missing")
    assert action in error.summary
    assert scope in error.hint


class Answer:
    """As much of an answer as the SDK's exceptions look at."""

    reason = "Reason"

    def __init__(self, status: int, body: Any, **headers: str) -> None:
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self._body = body if isinstance(body, str) else json.dumps(body)

    def text(self, encoding: str | None = None) -> str:
        return self._body


def failed(status: int, body: Any, **headers: str) -> HttpResponseError:
    return HttpResponseError(response=Answer(status, body, **headers))  # type: ignore[arg-type]


def test_retry_after_is_read() -> None:
    error = translated(failed(429, {"error": {"code": "TooManyRequests", "message": "x"}}, Retry_After="17"), "look")
    assert isinstance(error, BusyError)
    assert error.retry_after_seconds == 17
    date = translated(failed(503, "", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), "look")
    assert isinstance(date, BusyError)
    assert date.retry_after_seconds == 0


def test_reasons_one_level_down_are_found() -> None:
    inner = {"code": "SubnetIsFull", "message": "Subnet s is full"}
    outer = {"error": {"code": "ResourceDeploymentFailure", "message": "It failed.", "details": [inner]}}
    assert translated(failed(200, outer), "create endpoint e").code == "subnet_full"


def test_a_page_that_is_not_azure_s() -> None:
    error = translated(failed(502, "<html>Bad Gateway</html>"), "look")
    assert (error.code, error.retryable) == ("cloud_failed", True)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ServiceRequestError("Cannot connect to host"), "cloud_unreachable"),
        (ServiceResponseError("Connection reset by peer"), "cloud_unreachable"),
        (ServiceRequestError("... CERTIFICATE_VERIFY_FAILED ..."), "cloud_untrusted"),
        (ClientAuthenticationError("DefaultAzureCredential failed to retrieve a token"), "sign_in_failed"),
        (AzureError("something else"), "cloud_unreachable"),
    ],
)
def test_failures_without_an_answer(error: AzureError, code: str) -> None:
    found = translated(error, "look")
    assert (found.code, bool(found.hint)) == (code, True)
