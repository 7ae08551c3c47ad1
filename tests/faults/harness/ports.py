"""Ports that stay the same when what listens on them is restarted."""

import random
import socket

_given: set[int] = set()


def free_port() -> int:
    """A port on loopback that nobody listens on and that was not given out before.

    Below the range of outgoing connections (32768 and up), so that none of these takes it while the listener is away;
    at random, so that tests that run beside these take others.
    """
    for port in random.sample(range(20000, 32000), 1000):
        if port in _given:
            continue
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise AssertionError("no free port")
