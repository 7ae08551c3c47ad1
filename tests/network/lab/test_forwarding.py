"""``isthmus lab forward``: connections between this machine and a network, both ways, on a served lab."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from isthmus.kit.errors import ConfigError
from isthmus.lab import forwarding
from isthmus.lab.packets import requirements
from network.lab.served import ServedLab

pytestmark = pytest.mark.skipif(bool(requirements.missing()), reason="; ".join(requirements.missing()))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[ServedLab]:
    with ServedLab(tmp_path / "home") as lab:
        lab.start()
        subscription = lab.served.provider_subscription
        group = f"/subscriptions/{subscription}/resourceGroups/rg"
        lab.do("PUT", group, {"location": "westeurope"})
        space = {"addressSpace": {"addressPrefixes": ["10.1.0.0/16"]}}
        lab.do(
            "PUT",
            f"{group}/providers/Microsoft.Network/virtualNetworks/plane",
            {"location": "westeurope", "properties": space},
        )
        yield lab


class Forwarding:
    """The command, running."""

    def __init__(self, lab: ServedLab, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "isthmus.cli.main", "lab", "forward", "--home", str(lab.home), *words],
            env={"PATH": os.environ["PATH"]},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        self.said = [self.process.stderr.readline() for _ in words]

    def __enter__(self) -> "Forwarding":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:
            self.process.terminate()
            assert self.process.wait(10) == 0


#: Answers each connection with what it said, in capitals, once it has said all.
SHOUT = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as file:
            file.write(file.read().upper())
"""


@pytest.fixture
def shouting(lab: ServedLab) -> Iterator[int]:
    """A program inside the network; its port there."""
    port = free_port()
    with subprocess.Popen(
        [*lab.entering("plane"), sys.executable, "-c", SHOUT, str(port)],
        env=lab._environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield port
        process.terminate()


def said_back(port: int, text: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:

        def say() -> None:
            connection.sendall(text)
            connection.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=say)
        sender.start()
        with connection.makefile("rb") as file:
            answer = file.read()
        sender.join()
        return answer


def test_this_machine_reaches_into_a_network_and_back(lab: ServedLab, shouting: int) -> None:
    here, there, again = free_port(), free_port(), free_port()
    into, back = f"host:{here}=plane:{shouting}", f"plane:127.0.0.1:{there}=host:{again}"
    with Forwarding(lab, into, back) as running:
        assert running.said == [
            f"Forwarding host:127.0.0.1:{here}=plane:127.0.0.1:{shouting}\n",
            f"Forwarding {back.replace(f'host:{again}', f'host:127.0.0.1:{again}')}\n",
        ]
        assert said_back(here, b"hello") == b"HELLO"
        large = b"a" * 5_000_000  # more than all buffers on the way, and each direction ends by itself
        assert said_back(here, large) == large.upper()
        with socket.create_server(("127.0.0.1", again)) as server:
            script = f"import socket; print(socket.create_connection(('127.0.0.1', {there})).recv(9).decode())"
            visitor = subprocess.Popen(
                [*lab.entering("plane"), sys.executable, "-c", script],
                env=lab._environment,
                stdout=subprocess.PIPE,
                text=True,
            )
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"from here")
            assert visitor.communicate(timeout=10)[0] == "from here\n"
        # Nobody listens: the connection is taken, and ends at once.
        assert lab.exec("plane", sys.executable, "-c", script).stdout == "\n"
    with pytest.raises(ConnectionRefusedError):
        said_back(here, b"hello")


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("host:80", "forward_malformed"),
        ("host:80=plane:0", "forward_malformed"),
        ("host:80=plane:10.1:80", "forward_malformed"),
        ("host:65536=plane:80", "forward_malformed"),
        ("host:9=nowhere:80", "network_unknown"),
        ("plane:10.9.9.9:80=host:80", "forward_taken"),
    ],
)
def test_what_cannot_be_forwarded_is_said(lab: ServedLab, words: str, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "isthmus.cli.main", "lab", "forward", "--home", str(lab.home), words],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode != 0
    assert f"({code})" in done.stderr
    assert "hint: " in done.stderr


def test_a_forward_reads_as_it_was_typed() -> None:
    found = forwarding.parse("internet:203.0.113.7:443=host:8443")
    assert str(found) == "internet:203.0.113.7:443=host:127.0.0.1:8443"
    with pytest.raises(ConfigError):
        forwarding.parse("host:80=plane:80=host:80")
