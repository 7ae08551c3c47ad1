"""Every command of the walkthrough for Azure, typed into a shell on a lab: once its ``az`` column, once ours.

What the page leaves to its reader (a control plane, a deployment, an ingress, agents) are the programs of ``provider``.
One agent sees both columns through, on the public path when each begins, and is never restarted.
"""

import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.az import PROGRAM, QUIET
from tests.fakes.link_scene import HERE, HOST, Scene

from faults.harness import waits
from isthmus.lab import running
from isthmus.wire.admin import AgentHealth
from isthmus.wire.names import PathKind
from network.lab.shells import ROOT, Shell, matches
from network.link.customers import Customer, NetworkAgent
from network.link.provider import ADDRESS, CIDR, NETWORK, Deployment, Provider

PAGE = ROOT / "docs" / "azure.md"
CUSTOMER = "waterboard"

_HEADING = re.compile(r"^## (.*)$", re.MULTILINE)
#: A block of commands with who types it, and what it prints if the page says so.
_BLOCK = re.compile(r"```sh (?P<column>[a-z-]+)\n(?P<commands>.*?)```\n(?:```text\n(?P<output>.*?)```)?", re.DOTALL)


@dataclass(frozen=True)
class Block:
    column: str
    commands: str
    output: list[str]


def sections() -> dict[str, list[Block]]:
    """The page's blocks by the heading that they stand under; numbered headings by their number."""
    _, *parts = _HEADING.split(PAGE.read_text(encoding="utf-8"))
    return {
        title.split(".")[0]: [
            Block(one["column"], one["commands"], (one["output"] or "").splitlines()) for one in _BLOCK.finditer(text)
        ]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


SECTIONS = sections()
STEPS = [name for name in SECTIONS if name.isdigit()]


class Walk(Provider):
    """A reader with two subscriptions, at the beginning of the page; ``network`` is its first step."""

    def _build(self) -> "Walk":
        served = self.lab.served
        self.scene = Scene(self.lab.http, served.provider_subscription, served.customer_subscription)
        self.deployment = Deployment(self.lab)
        self._start_control_plane()
        self._sign_in()
        self.customer = Customer(self, CUSTOMER)
        self._read_values()
        self.take("1", "both")
        self._start_what_the_page_leaves_out()
        return self

    def close(self) -> None:
        if hasattr(self, "agent"):
            self.agent.close()
        if hasattr(self, "shell"):
            self.shell.close()
        super().close()

    def _sign_in(self) -> None:
        own = {"HOME": str(self.directory), "AZURE_CONFIG_DIR": str(self.directory / "az"), **QUIET}
        trust = {"CURL_CA_BUNDLE": str(self.authority), "ISTHMUS_AGENT_CA_FILE": str(self.authority)}
        self.shell = Shell({**own, **self.azure, **trust, "ISTHMUS_LAB_HOME": str(self.lab.home), "COLUMNS": "300"})
        arm = self.lab.served.arm
        self.type(f"set -a; az cloud register --name Lab --endpoint-resource-manager {arm}; az cloud set --name Lab")
        self.type("az login --identity --output none")

    def _read_values(self) -> None:
        """The values of a reader of the page: each that it asks for, and no other."""
        values = {
            "cluster": HOST.cluster_id,
            "domain": HOST.domain,
            "deployment": self.deployment.deployment_id,
            "provider": self.scene.provider,
            "provider_group": "orchestration",
            "region": HERE,
            "plane_net": NETWORK,
            "cidr": CIDR,
            "ingress_prefix": "10.1.0.0/24",
            "nat_prefix": "10.1.1.0/24",
            "ingress_address": ADDRESS,
            "frontend_address": "10.1.0.4",
            "api": f"https://{ADDRESS}:{self.deployment.api_port}",
            "api_name": "localhost",
            "customer": self.scene.customer,
            "customer_group": CUSTOMER,
            "customer_region": HERE,
            "vnet": CUSTOMER,
            "subnet": "agents",
            "token_file": str(self.deployment.directory / "link-walker-agent" / "token"),
        }
        asked, derived = SECTIONS["The values"]
        assert re.findall(r"^(\w+)=", asked.commands, re.MULTILINE) == list(values)
        for name, value in {**values, **self.commands}.items():
            self.type(f"{name}={shlex.quote(value)}")
        self.type(derived.commands)

    def _start_what_the_page_leaves_out(self) -> None:
        address = self.type('echo "$public_address"').strip()
        running.ask(self.lab.home, "PUT", f"/public-names/{HOST}", {"addresses": [address]})
        admin, control = self.deployment.admin_port, self._control_port
        crossing = (f"host:{admin}={NETWORK}:{admin}", f"{NETWORK}:{control}=host:{control}")
        self._start("crossing", ["lab", "forward", "--home", str(self.lab.home), *crossing])
        with ThreadPoolExecutor(1) as pool:
            deployment = pool.submit(self.deployment.start)
            self._start_ingress()
            self.ingress.await_ready("the ingress is open", self._is_open, seconds=60)
            deployment.result()
        self.agent = NetworkAgent(self.customer, "link-walker")
        self.agent.start()

    def _is_open(self) -> bool:
        return "the configuration is in force" in self.ingress.written()

    # --- the reader ------------------------------------------------------------------------------------------------

    def take(self, step: str, *columns: str) -> None:
        """A step of the page, with the blocks of these columns; it has to print what the page says."""
        for block in SECTIONS[step]:
            if block.column not in columns:
                continue
            output = self.type(block.commands, inside=block.column == "where-agents-run")
            for line in block.output:
                assert matches(line, output), f"{line!r} is not in the output of\n{block.commands}\n{output}"

    def type(self, commands: str, *, inside: bool = False) -> str:
        """What commands print that have to end well; ``inside`` the customer's network, or at a desk."""
        if inside:
            commands = f"isthmus lab exec {CUSTOMER} -- bash -c {shlex.quote(commands)}"
        output, failed = self.shell.run(commands)
        assert failed == 0, f"{commands}\n{output}\n{self.shell.close()}\n{self.evidence()}"
        return output

    def await_path(self, path: PathKind) -> None:
        def there() -> bool:
            view = self.agent.view()
            return view is not None and (view.health, view.path) == (AgentHealth.HEALTHY, path)

        waits.until(f"the agent comes over {path}", there, seconds=30, evidence=self.agent.evidence)


@pytest.fixture(scope="module")
def walk() -> Iterator[Walk]:
    with Walk() as walk:
        yield walk
        assert walk.agent.control.starts == 1


def test_the_page_has_both_columns_where_there_are_two() -> None:
    """Steps without a choice have neither; a column that is empty would pass unseen below."""
    two = [step for step in STEPS if {"az", "isthmus"} <= {block.column for block in SECTIONS[step]}]
    assert two == ["3", "4", "5", "6", "9"]
    assert {block.column for blocks in SECTIONS.values() for block in blocks} == {
        "values",
        "both",
        "az",
        "isthmus",
        "where-agents-run",
    }


def test_no_command_of_the_page_is_left_out() -> None:
    """Whatever looks like a command stands in a block that is typed below."""
    fences = re.findall(r"^```(\S.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert [one for one in fences if one != "text" and not one.startswith("sh ")] == []


@pytest.mark.skipif(not Path(PROGRAM).exists(), reason="there is no az: make az")
@pytest.mark.parametrize("column", ["az", "isthmus"])
@pytest.mark.timeout(600)
def test_the_column_leads_to_a_private_path_and_back(walk: Walk, column: str) -> None:
    walk.await_path(PathKind.PUBLIC)
    for step in [step for step in STEPS if step != "1"]:
        if step == "7":
            walk.await_path(PathKind.LINK)
        walk.take(step, column, "both", "where-agents-run")
    walk.await_path(PathKind.PUBLIC)
    assert not walk.scene.exists(walk.customer.endpoint_id)
