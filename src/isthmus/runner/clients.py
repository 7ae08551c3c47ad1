"""The Task SDK's client, towards the agent's gateway: HTTP over a UNIX socket, with the workload's gateway token.

The gateway retries, waits out outages and renews task tokens, so this end only waits for its answer. It has no TLS:
the socket's permissions and the token are what guards it.
"""

import ssl
from typing import Any, Final

import httpx

from isthmus.runner import compat

#: Only the path below the host counts; the gateway knows where the plane is.
_BASE_URL: Final = "http://gateway/execution/"

#: No limit on an answer: the gateway holds a request for as long as the plane cannot be reached. Both ends die together
#: (the fork server ends when the control process does), and a task that hangs all the same stops heartbeating, so that
#: the scheduler gives it up. Connecting is local: 30 s is an overloaded machine.
_TIMEOUT: Final = httpx.Timeout(None, connect=30.0)

#: One request at a time from a supervisor, on one connection.
_LIMITS: Final = httpx.Limits(max_connections=10, max_keepalive_connections=1)

#: httpx builds a TLS context for each transport, http or not, and Airflow's client another one with certifi's bundle:
#: 70 ms of CPU in each supervisor. This one has no certificates and is never used.
_UNUSED_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


class GatewayClient(compat.Client):
    """Airflow's client on the gateway's socket."""

    def __init__(self, socket_path: str, token: str, *, answer_seconds: float | None = None) -> None:
        """``answer_seconds`` is for who has something else to do than to wait for an answer."""
        super().__init__(
            base_url=_BASE_URL,
            token=token,
            timeout=httpx.Timeout(answer_seconds, connect=_TIMEOUT.connect),
            transport=httpx.HTTPTransport(uds=socket_path, limits=_LIMITS, verify=_UNUSED_TLS),
        )

    @staticmethod
    def _get_ssl_context_cached(*_: Any, **__: Any) -> ssl.SSLContext:
        return _UNUSED_TLS
