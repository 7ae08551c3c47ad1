"""Who comes in by which way: tokens that are bound to a link, and a deployment that is restricted to it."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from faults.harness import endings, waits
from faults.harness.runs import Run
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind
from network.link.customers import Customer, NetworkAgent
from network.link.provider import Provider


@pytest.fixture(scope="module")
def outside(provider: Provider) -> Customer:
    """Without a link."""
    return Customer(provider, "outside")


@pytest.fixture(scope="module")
def public(outside: Customer) -> Iterator[NetworkAgent]:
    """An agent on the public path, where it stays."""
    public = NetworkAgent(outside, "idle", name="public")
    yield public.start()
    public.close()


@pytest.fixture(scope="module")
def agent(provider: Provider, one: Customer) -> Iterator[NetworkAgent]:
    """An agent on a link, with a token for that link alone."""
    token = provider.token("bound", links=[one.link_id()])
    agent = NetworkAgent(one, "link-restricted", token=token)
    yield agent.start()
    agent.close()


def test_the_last_healthy_agent_is_not_cut_off(provider: Provider, public: NetworkAgent) -> None:
    refused = provider.restrict()
    assert refused.returncode == 1
    assert "(agents_cut_off)" in refused.stderr
    assert f"{public.name} (over the public path, from 203.0.113." in refused.stderr
    assert provider.isthmus("deployment", "allow", "list").strip() == ""
    public.await_path(PathKind.PUBLIC)


def test_a_bound_token_opens_the_door_on_its_own_link_alone(
    provider: Provider, one: Customer, other: Customer, outside: Customer, agent: NetworkAgent
) -> None:
    mine, theirs = one.link_id(), other.link_id()
    agent.await_path(PathKind.LINK, mine)
    code, rows = one.verify(agent.token)
    assert (code, rows["source"]["details"].endswith(f"through link {mine}")) == (0, True), rows["source"]
    for customer, seen in ((other, f"through link {theirs}"), (outside, "over the public path")):
        refused = customer.failing(agent.token, "--public-allowed")
        assert list(refused) == ["token"]
        assert "(token_wrong_link)" in refused["token"]["details"]
        assert seen in refused["token"]["details"]
        assert "token_wrong_link" in claiming_with(agent.token, provider, customer)
    # A token that is bound to nothing goes everywhere.
    anywhere = provider.token("anywhere")
    assert outside.failing(anywhere, "--public-allowed") == {}
    assert claiming_with(anywhere, provider, outside) == ""


def test_a_restricted_deployment_is_served_through_links_alone(
    provider: Provider, one: Customer, outside: Customer, agent: NetworkAgent, public: NetworkAgent
) -> None:
    run = Run(agent.plane, agent.lane)
    run.await_starts(agent.slots)
    planned = provider.restrict("--dry-run")
    assert re.search(rf"cut off +{public.name}", planned.stdout), planned
    with provider.unrestricted_afterwards():
        done = provider.restrict()
        assert done.returncode == 0, done.stderr
        assert list(outside.failing(public.token, "--public-allowed")) == ["source"]
        waits.until("the other one is shut out", lambda: not is_healthy(public), seconds=30)
        anywhere = (provider.token("anywhere"), "--public-address", provider.public_address)
        code, rows = one.verify(*anywhere)
        assert (code, rows["public_path"]["status"]) == (0, "pass"), rows
        provider.isthmus("deployment", "allow", "add", "203.0.113.0/24")
        assert list(one.failing(*anywhere)) == ["public_path"]
        agent.await_path(PathKind.LINK, one.link_id())
        run.open_gate()
        endings.assert_all_well(run, agent, tries=1)


def claiming_with(token: str, provider: Provider, customer: Customer) -> str:
    """What an agent that enrols with a token hears in a customer's network; empty if it may."""
    asked = {"url": provider.deployment.url, "token": token, "ca": str(provider.authority), "count": 0}
    ways = {"idle": customer.host_address()}
    program = (sys.executable, str(Path(__file__).with_name("claiming.py")))
    return customer.run(*program, given=json.dumps({**asked, "ways": ways})).stderr


def is_healthy(agent: NetworkAgent) -> bool:
    view = agent.view()
    return view is not None and view.health is AgentHealth.HEALTHY
