"""``isthmus verify``: the way from this network to a deployment, looked at step by step.

Runs where agents run, needs neither the agent nor the admin API, and changes nothing. Whether an endpoint's connection
is pending, rejected or removed cannot be told from inside a network: Azure is asked, if the endpoint is named. Each row
appears when it is known; what failed says what to do. The checks are in ``isthmus.probe``.
"""

import asyncio
import os
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Final
from urllib.request import getproxies, proxy_bypass

import typer

from isthmus.cli import printing
from isthmus.cli.exits import Exit
from isthmus.kit import calling
from isthmus.kit.errors import ConfigError
from isthmus.probe import planes, reports, verifying
from isthmus.probe.reports import Report, Row
from isthmus.probe.verifying import Target
from isthmus.wire.names import ConnectionState
from isthmus.wire.probes import KnownConnection

_TOKEN_VARIABLE: Final = "ISTHMUS_AGENT_TOKEN"

app = typer.Typer(add_completion=False)


@app.command()
def verify(
    *,
    url: Annotated[
        str,
        typer.Option(
            "--url",
            envvar="ISTHMUS_AGENT_URL",
            metavar="URL",
            help="The deployment's Remote Execution API, as https://<cluster-id>.external.<domain>/<deployment-id>.",
        ),
    ],
    token_file: Annotated[
        Path | None,
        typer.Option(
            "--token-file",
            envvar="ISTHMUS_AGENT_TOKEN_FILE",
            metavar="FILE",
            help=f"Holds an agent token; or {_TOKEN_VARIABLE}. Without one, what needs a token is left out.",
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            "--endpoint",
            metavar="ADDRESS|NAME",
            help="The private endpoint's address, which the name must have; or, with --resource-group, its name: "
            "Azure is asked for the address and for its connection's state.",
        ),
    ] = None,
    resource_group: Annotated[
        str | None, typer.Option("--resource-group", "-g", metavar="NAME", help="The endpoint's resource group.")
    ] = None,
    subscription: Annotated[
        str | None,
        typer.Option(
            "--subscription",
            envvar="AZURE_SUBSCRIPTION_ID",
            metavar="ID",
            help="The endpoint's subscription; else the one that has it.",
        ),
    ] = None,
    public_address: Annotated[
        list[str] | None,
        typer.Option(
            "--public-address",
            metavar="ADDRESS",
            help="The cluster's public address, to see whether it refuses; may repeat.",
        ),
    ] = None,
    public_resolver: Annotated[
        str,
        typer.Option(
            "--public-resolver",
            metavar="ADDRESS",
            help="A resolver of the internet: finds the public address, and tells a name that a private zone hides "
            "here from one that does not exist.",
        ),
    ] = "",
    public_allowed: Annotated[
        bool, typer.Option("--public-allowed", help="A public address and an open public path are as they should be.")
    ] = False,
    ca_file: Annotated[
        Path | None,
        typer.Option(
            "--ca-file",
            envvar="ISTHMUS_AGENT_CA_FILE",
            metavar="FILE",
            help="Certificates (PEM) of the authorities to trust, instead of the system's.",
        ),
    ] = None,
    timeout_seconds: Annotated[
        float, typer.Option("--timeout-seconds", min=0.1, max=60, metavar="SECONDS", help="For each answer.")
    ] = 5.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON: the report as the admin API has it.")] = False,
) -> None:
    """Look at the way from this network to a deployment: name, address, TCP, TLS, token, source, heartbeat.

    Exit code 0 when nothing failed, 1 when something did.
    """
    origin = calling.parse_origin(url)
    address, connection = _endpoint(endpoint, resource_group, subscription)
    target = Target(
        host=origin.host,
        port=origin.port,
        path="/" + url.partition("://")[2].partition("/")[2].strip("/"),
        tls=_trust(ca_file) if origin.scheme == "https" else None,
        endpoint=address,
        connection=connection,
        is_public_allowed=public_allowed,
        public_addresses=tuple(_address("--public-address", one) for one in public_address or ()),
        public_resolver=str(_address("--public-resolver", public_resolver)) if public_resolver else "",
        proxy=_proxy(origin),
        timeout_seconds=timeout_seconds,
    )
    report = asyncio.run(_run(target, _token(token_file), _quiet if as_json else _tell))
    if as_json:
        printing.json_of(reports.to_wire(report))
    else:
        _conclude(report)
    raise typer.Exit(Exit.FAILED if report.failed else Exit.DONE)


async def _run(target: Target, token: str | None, tell: Callable[[Row], None]) -> Report:
    return await verifying.verify(target, plane=planes.ProbedPlane(token), tell=tell)


def _endpoint(
    said: str | None, resource_group: str | None, subscription: str | None
) -> tuple[IPv4Address | IPv6Address | None, KnownConnection | None]:
    """The endpoint's address, and its connection where Azure was asked. Raises IsthmusError."""
    if said is None or resource_group is None:
        return None if said is None else _address("--endpoint", said), None
    from isthmus.cli import endpoints  # noqa: PLC0415 - Azure, for those who ask it

    found = endpoints.find(said, resource_group, subscription)
    known = KnownConnection(endpoint=said[:512], state=ConnectionState(found.state.value), reason=found.reason[:512])
    return found.address, known


def _quiet(_: Row) -> None:
    """JSON is printed in one piece, at the end."""


def _tell(row: Row) -> None:
    printing.row(reports.row_to_wire(row))


def _conclude(report: Report) -> None:
    counts = [f"{sum(row.status is status for row in report.rows)} {status.value}" for status in reports.Status]
    printing.note(f"{report.url}: {', '.join(counts)}")


def _address(option: str, text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ConfigError(
            f"{option}: {text!r} is not an address",
            code="address_invalid",
            hint="Write it as 10.1.0.4 or 2001:db8::7. An endpoint's name needs --resource-group.",
        ) from None


def _trust(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"--ca-file {ca_file} cannot be used: {error}", code="ca_file_unusable", hint="It must be PEM."
        ) from None


def _token(file: Path | None) -> str | None:
    if file is None:
        token = os.environ.get(_TOKEN_VARIABLE, "").strip()
    else:
        try:
            token = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            raise ConfigError(
                f"the token file {file} cannot be read: {reason}",
                code="token_file_unreadable",
                hint="isthmus token create --output writes such a file.",
            ) from None
    if not token:
        return None
    if not token.isprintable() or " " in token:
        raise ConfigError("that is no agent token", code="token_file_malformed", hint="It is one word: isthmus_…")
    return token


def _proxy(origin: calling.Origin) -> str:
    """Host and port of the proxy that the environment names for this host, without its password."""
    url = getproxies().get(origin.scheme)
    if not url or proxy_bypass(origin.host):
        return ""
    return calling.parse_proxy(url if "://" in url else f"http://{url}").origin.address
