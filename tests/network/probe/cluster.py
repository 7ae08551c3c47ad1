"""A cluster's ingress with one deployment, for a namespace: TLS, 404, an allow list, and the probe.

Started as ``cluster.py FOLDER ADDRESS:PORT``; FOLDER has ``server.pem`` and ``allowed`` (a range a line, read at each
request; empty means all).
"""

import asyncio
import ssl
import sys
from datetime import UTC, datetime
from ipaddress import ip_address, ip_network
from pathlib import Path

from isthmus.wire import problems
from isthmus.wire.names import PathKind, Role
from isthmus.wire.probes import ProbedAgent, ProbeResponse
from isthmus.wire.problems import Code

DEPLOYMENT = "dtest234"
TOKEN = f"isthmus_{DEPLOYMENT}_abcdefgh2345_{'s' * 43}"


def answer(head: str, peer: str, ranges: list[str]) -> tuple[int, str, str]:
    """Status, content type and body."""
    if not head.startswith(f"GET /{DEPLOYMENT}/agent/v1/probe "):
        return 404, "text/plain", "404 page not found\n"
    if ranges and not any(ip_address(peer) in ip_network(one) for one in ranges):
        refusal = problems.problem(Code.SOURCE_NOT_ALLOWED, f"{peer} is not in the allow list.", source_address=peer)
        return 403, problems.CONTENT_TYPE, refusal.model_dump_json()
    if TOKEN not in head:
        return 401, problems.CONTENT_TYPE, problems.problem(Code.TOKEN_INVALID).model_dump_json()
    agent = ProbedAgent(
        name="agent-1",
        role=Role.WORKER,
        healthy=True,
        left=False,
        path=PathKind.PUBLIC,
        link_id=None,
        address=peer,
        heartbeat_seconds_ago=1.0,
    )
    said = ProbeResponse(
        deployment_id=DEPLOYMENT,
        plane_version="0.1.0",
        now=datetime.now(UTC),
        restricted=bool(ranges),
        source_address=peer,
        path=PathKind.PUBLIC,
        link_id=None,
        token_id="abcdefgh2345",
        token_name="test",
        token_expires_at=None,
        token_roles=(),
        token_queues=(),
        token_links=(),
        agents=(agent,),
    )
    return 200, "application/json", said.model_dump_json()


async def main(folder: Path, where: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            ranges = (folder / "allowed").read_text().split()
            status, kind, body = answer(head, writer.get_extra_info("peername")[0], ranges)
            writer.write(
                f"HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n"
                f"connection: close\r\n\r\n{body}".encode()
            )
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder / "server.pem")
    address, port = where.rsplit(":", 1)
    async with await asyncio.start_server(serve, address, int(port), ssl=tls):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
