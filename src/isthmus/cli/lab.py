"""``isthmus lab``: serve the local Azure network, look at it, run commands in it, and remove it.

``serve`` is the composition root; ``up`` runs it in the background. The other commands ask the process that serves,
over a socket in the lab's home, and work on what it left behind when it is gone.
"""

import asyncio
import inspect
import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from isthmus.cli import flags as flagging
from isthmus.cli import printing
from isthmus.kit import logs
from isthmus.kit.errors import ConfigError
from isthmus.lab import config

SERVE_HELP: Final = (
    "Serve a lab in the foreground: the resource manager on 127.0.0.1, and packets that follow it.\n\n"
    "Settings come from flags, then from the environment (ISTHMUS_LAB_PORT for --port), then from the file, then "
    "defaults. Needs Linux and root, with ip, nft and dnsmasq; --without-packets needs none of them. On SIGTERM it "
    "ends and leaves state and network as they are: the next start takes both over, and isthmus lab down removes them."
)
UP_HELP: Final = (
    "Serve a lab in the background; return when it answers.\n\n"
    'Then: eval "$(isthmus lab env)". Does nothing when the lab is served already. Its log is in its home.'
)

app = typer.Typer(
    add_completion=False, help="A local Azure network with real packets: serve it, look at it, run commands in it."
)
public_dns = typer.Typer(help="The names that the lab's public resolver knows.")
app.add_typer(public_dns, name="public-dns")

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="PATH", help=f"A TOML file with settings; or {config.FILE_VARIABLE}."),
]
WithoutPackets = Annotated[
    bool, typer.Option("--without-packets", help="Serve the resource manager alone: no root, no Linux, no packets.")
]
Home = Annotated[
    str | None, typer.Option("--home", metavar="PATH", help="The lab's home; or ISTHMUS_LAB_HOME.", show_default=False)
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

#: How long a start may take. A cold start on a busy small machine with fifty endpoints takes a few seconds.
_UP_SECONDS: Final = 60.0


def _flags(given: dict[str, str | None], *, without_packets: bool) -> dict[str, object]:
    return {**given, "without_packets": without_packets or None}


def _home(given: str | None) -> Path:
    """The home that commands other than ``serve`` are about."""
    return config.load({"home": given}).config.home


def serve(*, config_file: ConfigFile = None, without_packets: WithoutPackets = False, **flags: str | None) -> None:
    """Serve the lab that flags, environment and file describe."""
    from isthmus.lab import serving  # noqa: PLC0415 - help is printed without the lab

    loaded = config.load(_flags(flags, without_packets=without_packets), file=config_file)
    raise typer.Exit(serving.main(loaded.config))


def up(
    *,
    config_file: ConfigFile = None,
    without_packets: WithoutPackets = False,
    as_json: AsJson = False,
    **flags: str | None,
) -> None:
    """Have a process of its own serve that lab."""
    from isthmus.lab import running  # noqa: PLC0415 - help is printed without the lab

    wanted = config.load(_flags(flags, without_packets=without_packets), file=config_file).config
    command = running.command({**flags, "config": config_file})
    if without_packets:
        command.append("--without-packets")
    served, is_new = running.start(wanted.home, command, timeout_seconds=_UP_SECONDS)
    if as_json:
        printing.say(json.dumps(running.environment(served), indent=2))
        return
    printing.note(f"The lab {'answers' if is_new else 'was already served'} at {served.arm}; home: {wanted.home}.")
    if not served.has_packets:
        printing.note("It serves the resource manager alone, without packets.")
    printing.note(f'For az and the SDKs: eval "$(isthmus lab env{_home_words(flags.get("home"))})"')


def _home_words(home: str | None) -> str:
    return f" --home {home}" if home else ""


@app.command("down")
def down(
    *,
    home: Home = None,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep the state: the next start brings everything back.")
    ] = False,
) -> None:
    """End the lab and remove its network and its state. Works after a crash, and when nothing runs."""
    from isthmus.lab import removing  # noqa: PLC0415 - help is printed without the lab

    where = _home(home)
    removed = removing.remove(where, keep=keep)
    for line in removed:
        printing.note(line)
    if not removed:
        printing.note(f"There was nothing to remove: no lab is served from {where}.")


@app.command("status")
def status(*, home: Home = None, as_json: AsJson = False) -> None:
    """Networks, endpoints with their state and traffic, link services, repairs, health."""
    from isthmus.lab import running  # noqa: PLC0415 - help is printed without the lab

    told = running.ask(_home(home), "GET", "/status")
    if as_json:
        printing.say(json.dumps(told, indent=2))
        return
    _print_status(told)


@app.command("env")
def env(*, home: Home = None, as_json: AsJson = False) -> None:
    """What clients need, as lines for a shell: eval "$(isthmus lab env)"."""
    from isthmus.lab import running  # noqa: PLC0415 - help is printed without the lab

    served = running.serving(_home(home))
    printing.say(json.dumps(running.environment(served), indent=2) if as_json else running.exports(served).rstrip("\n"))


@app.command(
    "exec",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def execute(
    network: Annotated[str, typer.Argument(help="A virtual network's name or id, or: internet.")],
    command: Annotated[list[str], typer.Argument(help="The command and its arguments.", metavar="COMMAND...")],
    *,
    home: Home = None,
) -> None:
    """Run a command inside a virtual network, or on the lab's internet; its exit code is ours.

    Names are resolved as in that network. Words after -- are the command's.
    """
    from isthmus.lab import entering, running  # noqa: PLC0415 - help is printed without the lab

    words = command[1:] if command[0] == "--" else command
    if not words:
        raise ConfigError("there is no command", code="no_command", hint="isthmus lab exec NETWORK -- COMMAND...")
    where = _home(home)
    found = running.ask(where, "POST", "/find", {"network": network})
    raise typer.Exit(entering.run(found["namespace"], words))


@app.command("forward")
def forward(
    forwards: Annotated[
        list[str], typer.Argument(help="LISTEN=TARGET, each NETWORK:[ADDRESS:]PORT.", metavar="LISTEN=TARGET...")
    ],
    *,
    home: Home = None,
) -> None:
    """Carry TCP connections between networks, or between one and this machine (host), until Ctrl-C.

    isthmus lab forward host:8080=plane:10.1.0.20:80 listens on this machine's 127.0.0.1:8080.
    """
    from isthmus.lab import forwarding, running  # noqa: PLC0415 - help is printed without the lab

    wanted = [forwarding.parse(one) for one in forwards]
    loaded = config.load({"home": home}).config

    def find(network: str) -> str:
        return str(running.ask(loaded.home, "POST", "/find", {"network": network})["namespace"])

    logs.configure(loaded.log_level, loaded.log_format)
    asyncio.run(forwarding.serve(wanted, find, lambda one: printing.note(f"Forwarding {one}")))


@public_dns.command("set")
def public_dns_set(
    name: Annotated[str, typer.Argument(help="A name on the internet.")],
    address: Annotated[list[str], typer.Argument(metavar="ADDRESS...", help="Its addresses.")],
    *,
    home: Home = None,
) -> None:
    """Have the public resolver answer a name with these addresses."""
    _change_name(home, "PUT", name, {"addresses": address})


@public_dns.command("unset")
def public_dns_unset(
    name: Annotated[str, typer.Argument(help="A name on the internet.")], *, home: Home = None
) -> None:
    """Have the public resolver forget a name."""
    _change_name(home, "DELETE", name, None)


@public_dns.command("list")
def public_dns_list(*, home: Home = None, as_json: AsJson = False) -> None:
    """The public resolver's names."""
    from isthmus.lab import running  # noqa: PLC0415 - help is printed without the lab

    names = running.ask(_home(home), "GET", "/public-names")
    if as_json:
        printing.say(json.dumps(names, indent=2))
        return
    rows = [(name, printing.words(addresses)) for name, addresses in sorted(names.items())]
    printing.table(("NAME", "ADDRESSES"), rows, empty="The public resolver knows no names.")


def _change_name(home: str | None, method: str, name: str, body: Any) -> None:
    from isthmus.lab import running  # noqa: PLC0415 - help is printed without the lab

    running.ask(_home(home), method, f"/public-names/{name}", body)


def _print_status(told: dict[str, Any]) -> None:
    lab = told["lab"]
    printing.facts(
        (
            ("lab", lab["arm"]),
            ("home", lab["home"]),
            ("since", printing.age(datetime.fromisoformat(lab["since"]))),
            ("packets", "follow" if lab["packets"] else "none: the resource manager alone"),
        )
    )
    for one in told["health"]:
        printing.say(f"{one['severity']}: {one['summary']} ({one['code']})")
        if one["hint"]:
            printing.say(f"  hint: {one['hint']}")
    printing.say("")
    printing.table(
        ("NETWORK", "GROUP", "PREFIXES", "NAMESPACE"),
        ((one["name"], one["group"], printing.words(one["prefixes"]), one["namespace"]) for one in told["networks"]),
        empty="No virtual networks.",
    )
    printing.say("")
    printing.table(
        ("ENDPOINT", "ADDRESS", "STATE", "SERVICE", "IN", "OUT", "CONNECTIONS"),
        (
            (
                one["name"],
                one["address"],
                one["state"],
                (one["service"] or printing.NOTHING).rpartition("/")[2],
                _bytes(one["bytes_in"]),
                _bytes(one["bytes_out"]),
                _count(one["connections"]),
            )
            for one in told["endpoints"]
        ),
        empty="No private endpoints.",
    )
    if told["services"]:
        printing.say("")
        printing.table(
            ("LINK SERVICE", "NAT ADDRESSES", "NAT PORTS USED"),
            (
                (
                    one["name"],
                    printing.words(one["nat_addresses"]),
                    f"{_count(one['nat_ports_used'])} of {one['nat_ports']}",
                )
                for one in told["services"]
            ),
            empty="",
        )
    for one in told["repairs"][-_SHOWN_REPAIRS:]:
        printing.say(f"repaired {printing.age(datetime.fromisoformat(one['at']))}: {one['what']}")


_SHOWN_REPAIRS: Final = 5


def _count(value: int | None) -> str:
    return printing.NOTHING if value is None else str(value)


def _bytes(value: int | None) -> str:
    if value is None:
        return printing.NOTHING
    size = float(value)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def _signature(command: Any) -> inspect.Signature:
    own = [one for one in inspect.signature(command).parameters.values() if one.kind is not one.VAR_KEYWORD]
    return inspect.Signature([*own, *flagging.options(config.LabConfig, without=("without_packets",))])


serve.__signature__ = _signature(serve)  # type: ignore[attr-defined]
up.__signature__ = _signature(up)  # type: ignore[attr-defined]
app.command("serve", help=SERVE_HELP)(serve)
app.command("up", help=UP_HELP)(up)
