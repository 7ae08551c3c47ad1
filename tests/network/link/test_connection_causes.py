"""Why an endpoint carries nothing: `isthmus verify` in the customer's network names the one cause, having asked Azure.

From inside, a pending, a rejected and a removed connection are the same silence.
"""

import json
from collections.abc import Callable
from urllib.parse import urlsplit

import pytest

from faults.harness.planes import BINARIES
from faults.harness.waits import until
from network.link.customers import ENDPOINT, Customer, Rows
from network.link.provider import LINK, Provider

Verify = Callable[..., Rows]


@pytest.fixture(scope="module")
def customer(provider: Provider) -> Customer:
    """A customer whose network reaches Azure, as networks do."""
    customer = Customer(provider, "causes")
    ports = {urlsplit(provider.azure[name]).port for name in ("ISTHMUS_AZURE_ARM_ENDPOINT", "IDENTITY_ENDPOINT")}
    crossing = [f"causes:{port}=host:{port}" for port in sorted(one for one in ports if one is not None)]
    provider._start("crossing-causes", ["lab", "forward", "--home", str(provider.lab.home), *crossing])
    until(
        "Azure is reached",
        lambda: customer.run("curl", "-sk", provider.azure["ISTHMUS_AZURE_ARM_ENDPOINT"]).stdout,
        seconds=20,
    )
    return customer


@pytest.fixture(scope="module")
def verify(provider: Provider, customer: Customer) -> Verify:
    token = provider.token("causes")

    def verify(*words: str) -> Rows:
        place = ("--url", provider.deployment.url, "--ca-file", str(provider.authority), "--timeout-seconds", "2")
        done = customer.run(
            *(str(BINARIES / "isthmus"), "verify", *place, "--json", *words),
            **{**provider.azure, "ISTHMUS_AGENT_TOKEN": token},
        )
        assert done.stdout, done.stderr
        rows = {row["check"]: row for row in json.loads(done.stdout)["rows"]}
        failed = {check: row for check, row in rows.items() if row["status"] == "fail"}
        assert done.returncode == (1 if failed else 0)
        return failed or {"connection": rows["connection"]}

    return verify


def test_each_state_of_the_connection_is_one_cause(provider: Provider, customer: Customer, verify: Verify) -> None:
    named = ("--endpoint", ENDPOINT, "--resource-group", customer.name)

    def only(code: str) -> str:
        rows = verify(*named)
        assert list(rows) == ["connection"], rows
        row = rows["connection"]
        assert (row["status"], row["code"]) == ("fail", code), row
        assert row["remedy"]
        return str(row["details"])

    customer.endpoint(*customer.create_words("--no-wait"))
    assert "pending" in only("connection_pending")
    provider.decide(customer.endpoint_id, "approve")
    customer.endpoint("apply")
    assert verify(*named)["connection"]["status"] == "pass"
    provider.decide(customer.endpoint_id, "reject", "maintenance")
    assert only("connection_rejected").endswith("is rejected: maintenance")
    # With the address alone the cause is not to be seen, and where to look is said.
    (row,) = verify("--endpoint", customer.address()).values()
    assert (row["check"], "--resource-group" in row["remedy"]) == ("tcp", True)
    connection = provider.connection(customer.endpoint_id, "rejected")["connection_id"]
    assert provider.http.post(f"{LINK}/connections/{connection}/remove", json={"reason": "moving"}).is_success
    assert "disconnected" in only("connection_disconnected")
    customer.endpoint("create", "--recreate", "--no-wait")
    assert "pending" in only("connection_pending")
    provider.decide(customer.endpoint_id, "approve")
    customer.endpoint("apply")
    assert verify(*named)["connection"]["status"] == "pass"
