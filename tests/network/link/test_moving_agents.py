"""Real agents move to a link and back: by themselves, soon, and with the tasks that they run.

One agent for the whole file, on the public path when it begins; it is never restarted.
"""

import time
from collections.abc import Iterator

import pytest

from faults.harness import endings, waits
from faults.harness.runs import Run
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind
from network.link.customers import Customer, NetworkAgent
from network.link.provider import Provider

#: From an operator's approval to an agent that the plane has as healthy on the link.
LIMIT_SECONDS = 10
#: curl's exit code when nobody answers.
SILENCE = 28


@pytest.fixture(scope="module")
def here(provider: Provider) -> Customer:
    return Customer(provider, "mover")


@pytest.fixture(scope="module")
def agent(here: Customer) -> Iterator[NetworkAgent]:
    agent = NetworkAgent(here, "link-moved")
    yield agent.start()
    agent.close()
    assert agent.control.starts == 1


@pytest.fixture
def joined(provider: Provider, here: Customer, agent: NetworkAgent) -> int:
    """The id of the link that the agent comes through when the test begins."""
    link_id = here.link_id() if provider.scene.exists(here.endpoint_id) else here.join()
    agent.await_path(PathKind.LINK, link_id)
    return link_id


@pytest.fixture
def run(agent: NetworkAgent) -> Run:
    """A task in each slot of the agent."""
    run = Run(agent.plane, agent.lane)
    run.await_starts(agent.slots)
    return run


def assert_nothing_happened(run: Run, agent: NetworkAgent) -> None:
    """The tasks that ran all the while noticed nothing, were handed out once, and left their slots to others.

    That the slots can be used shows the next test's ``run``, and after the last one a further run.
    """
    assert len(run.ledger.alive()) == agent.slots, run.evidence()
    run.open_gate()
    endings.assert_all_well(run, agent, tries=1)
    assert {work.fence for work in run.works()} == {1}, run.evidence()


def await_unhealthy(agent: NetworkAgent) -> None:
    def missed() -> bool:
        view = agent.view()
        return view is not None and view.health is AgentHealth.UNHEALTHY

    waits.until(f"the plane misses {agent.name}", missed, seconds=30, evidence=agent.evidence)


def test_an_agent_moves_to_the_link_by_itself(
    provider: Provider, here: Customer, agent: NetworkAgent, run: Run
) -> None:
    agent.await_path(PathKind.PUBLIC)
    creating = here.start_endpoint(*here.create_words())
    provider.connection(here.endpoint_id, "pending")
    assert here.run("curl", "--silent", "--max-time", "1", f"https://{here.address()}/").returncode == SILENCE
    assert here.host_address() == provider.public_address

    approved_at = time.monotonic()
    link_id = provider.decide(here.endpoint_id, "approve")["link_id"]
    agent.await_path(PathKind.LINK, link_id)
    seconds = time.monotonic() - approved_at
    print(f"{seconds:.1f} s from the approval to a healthy agent on the link")
    errors = creating.communicate(timeout=30)[1]
    assert creating.returncode == 0, errors
    assert seconds < LIMIT_SECONDS
    assert_nothing_happened(run, agent)


@pytest.mark.usefixtures("joined")
def test_a_connection_is_rejected_and_asked_for_again(
    provider: Provider, here: Customer, agent: NetworkAgent, run: Run
) -> None:
    waiting = Run(agent.plane, agent.lane, gated=False, seconds=0)  # for this one there is no slot
    provider.decide(here.endpoint_id, "reject")
    applied = here.start_endpoint("apply").communicate(timeout=60)
    assert "(connection_rejected)" in applied[1]
    await_unhealthy(agent)
    creating = here.start_endpoint("create", "--recreate")
    link_id = provider.decide(here.endpoint_id, "approve")["link_id"]
    agent.await_path(PathKind.LINK, link_id)
    errors = creating.communicate(timeout=60)[1]
    assert creating.returncode == 0, errors
    assert not waiting.ledger.starts()
    assert_nothing_happened(run, agent)
    endings.assert_all_well(waiting, agent, tries=1)


def test_the_zone_is_deleted(provider: Provider, here: Customer, agent: NetworkAgent, joined: int, run: Run) -> None:
    zone, endpoint = provider.scene.zone_path(group=here.name), here.address()
    for link in provider.scene.get(f"{zone}/virtualNetworkLinks")["value"]:
        provider.scene.delete(f"{zone}/virtualNetworkLinks/{link['name']}")
    provider.scene.delete(zone)
    assert list(here.failing(agent.token, "--endpoint", endpoint)) == ["address"]
    agent.await_path(PathKind.PUBLIC)
    here.endpoint("apply")
    agent.await_path(PathKind.LINK, joined)
    assert_nothing_happened(run, agent)


def test_the_record_is_stale(provider: Provider, here: Customer, agent: NetworkAgent, joined: int, run: Run) -> None:
    record = f"{provider.scene.zone_path(group=here.name)}/A/@"
    found = provider.scene.get(record)
    stale = {**found["properties"], "aRecords": [{"ipv4Address": "10.1.0.77"}]}
    provider.scene.put(record, {**found, "properties": stale})
    await_unhealthy(agent)
    failing = here.failing(agent.token, "--endpoint", here.address())
    assert list(failing) == ["address"]
    assert "10.1.0.77" in failing["address"]["details"]
    here.endpoint("apply")
    agent.await_path(PathKind.LINK, joined)
    assert_nothing_happened(run, agent)


@pytest.mark.usefixtures("joined")
def test_the_endpoint_is_deleted(provider: Provider, here: Customer, agent: NetworkAgent, run: Run) -> None:
    here.endpoint("delete")
    agent.await_path(PathKind.PUBLIC)
    assert here.host_address() == provider.public_address
    assert_nothing_happened(run, agent)
    endings.assert_slots_work(agent)
