"""Subscriptions, tenants and locations, as they are shown."""

from collections.abc import Mapping
from typing import Any

from isthmus.lab.arm.calls import Answer, Call
from isthmus.lab.arm.engine import Engine, Page
from isthmus.lab.arm.registry import LOCATIONS
from isthmus.lab.errors import ArmError
from isthmus.lab.tenancy import Subscription, Tenancy


def _shown(tenancy: Tenancy, subscription: Subscription) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription.id}",
        "authorizationSource": "RoleBased",
        "managedByTenants": [],
        "subscriptionId": subscription.id,
        "tenantId": tenancy.tenant_id,
        "displayName": subscription.display_name,
        "state": "Enabled",
        "subscriptionPolicies": {
            "locationPlacementId": "Public_2014-09-01",
            "quotaId": "PayAsYouGo_2014-09-01",
            "spendingLimit": "Off",
        },
    }


async def list_subscriptions(engine: Engine, _call: Call, _words: Mapping[str, str]) -> Answer:
    """``GET /subscriptions``."""
    tenancy = engine.tenancy
    shown = [_shown(tenancy, one) for one in tenancy.subscriptions]
    return Answer(200, {"value": shown, "count": {"type": "Total", "value": len(shown)}})


async def get_subscription(engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /subscriptions/S``."""
    found = engine.tenancy.subscription(words["subscription"])
    if found is None:
        raise ArmError(404, "SubscriptionNotFound", f"The subscription '{words['subscription']}' could not be found.")
    return Answer(200, _shown(engine.tenancy, found))


async def list_tenants(engine: Engine, _call: Call, _words: Mapping[str, str]) -> Answer:
    """``GET /tenants``."""
    tenant = engine.tenancy.tenant_id
    shown = {
        "id": f"/tenants/{tenant}",
        "tenantId": tenant,
        "countryCode": "NL",
        "displayName": "Isthmus lab",
        "domains": ["isthmuslab.onmicrosoft.com"],
        "tenantCategory": "Home",
        "defaultDomain": "isthmuslab.onmicrosoft.com",
        "tenantType": "AAD",
    }
    return Answer(200, {"value": [shown]})


async def list_locations(_engine: Engine, _call: Call, words: Mapping[str, str]) -> Answer:
    """``GET /subscriptions/S/locations``."""
    return Answer(200, {"value": [_location(words["subscription"], name, LOCATIONS[name]) for name in LOCATIONS]})


def _location(subscription: str, name: str, display_name: str) -> dict[str, Any]:
    return {
        "id": f"/subscriptions/{subscription}/locations/{name}",
        "name": name,
        "type": "Region",
        "displayName": display_name,
        "regionalDisplayName": display_name,
        "metadata": {"regionType": "Physical", "regionCategory": "Recommended"},
    }


PAGES = (
    Page("GET", ("subscriptions",), list_subscriptions),
    Page("GET", ("subscriptions", "{subscription}"), get_subscription),
    Page("GET", ("subscriptions", "{subscription}", "locations"), list_locations),
    Page("GET", ("tenants",), list_tenants),
)
