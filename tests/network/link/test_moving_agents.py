"""Real agents move to a link and back: by themselves, soon, and with the tasks that they run."""

import time
from collections.abc import Callable

from faults.harness import endings
from faults.harness.runs import Run
from isthmus.wire.names import PathKind
from network.link.customers import Customer, NetworkAgent
from network.link.provider import Provider

MakeCustomer = Callable[..., Customer]
Enlist = Callable[..., NetworkAgent]

#: From an operator's approval to an agent that the plane has as healthy on the link.
LIMIT_SECONDS = 10


def test_an_agent_moves_to_the_link_by_itself(provider: Provider, customer: MakeCustomer, enlist: Enlist) -> None:
    here = customer()
    agent = enlist(here, "link-moved").start()
    pid = agent.control.pid
    assert here.host_address() == provider.public_address
    agent.await_path(PathKind.PUBLIC)
    run = Run(provider.deployment, agent.lane)
    run.await_starts(agent.slots)

    creating = here.start_endpoint(*here.create_words())
    provider.connection(here.endpoint_id, "pending")
    approved_at = time.monotonic()
    link_id = provider.decide(here.endpoint_id, "approve")["link_id"]
    agent.await_path(PathKind.LINK, link_id)
    seconds = time.monotonic() - approved_at
    print(f"{seconds:.1f} s from the approval to a healthy agent on the link")
    errors = creating.communicate(timeout=30)[1]
    assert creating.returncode == 0, errors
    assert seconds < LIMIT_SECONDS
    assert agent.control.pid == pid
    run.open_gate()
    endings.assert_all_well(run, agent, tries=1)
    endings.assert_slots_work(agent)
