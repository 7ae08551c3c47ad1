"""``python -m isthmus.runner``: the composition root of the fork server, and of the components.

The fork server is started by the agent's control process with a clean environment, or on its own with ``--socket``.
``dag-processor`` or ``triggerer`` as the first argument runs a component (``COMPONENTS``) in its place, and
``log-reading`` reads a log from the store that the tasks' remote logging names. Sets what
Airflow has to know before it is imported, and turns what cannot work into one line and exit code 2.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from isthmus.kit import logs, processes
from isthmus.kit.errors import ConfigError
from isthmus.runner.config import RunnerConfig, Shortcut
from isthmus.wire import frames
from isthmus.wire.names import Role

#: Whatever the configuration file says: an agent has no metadata database, and nothing that it runs may look for one.
_FORCED = {
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": "sqlite://",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": "sqlite+aiosqlite://",
}
#: The modules of the components; each has ``main(socket_fd: int) -> None``, which runs it to its end.
COMPONENTS: Final = {
    Role.DAG_PROCESSOR.value: "isthmus.runner.dag_processing",
    Role.TRIGGERER.value: "isthmus.runner.triggering",
}
#: Airflow starts tracing where it is imported, which is a thread that exports spans. The fork server must have none:
#: what it forks starts tracing by itself (``compat.start_tracing``).
_TRACING: Final = "AIRFLOW__TRACES__OTEL_ON"
#: Not a component: it reads one log from the store and ends (``isthmus.runner.log_reading``).
LOG_READING: Final = "log-reading"
#: Unless the environment says otherwise. Example bundles would be discovered anew in each task.
_DEFAULTS = {"AIRFLOW__CORE__LOAD_EXAMPLES": "False"}
#: Airflow's own ways to say the same, which would win over the plain option.
_INDIRECT = ("_CMD", "_SECRET")


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Make Airflow importable without a metadata database."""
    for name, value in _FORCED.items():
        environment[name] = value
        for suffix in _INDIRECT:
            environment.pop(name + suffix, None)
    for name, value in _DEFAULTS.items():
        environment.setdefault(name, value)


@contextmanager
def _tracing_held_back(environment: MutableMapping[str, str]) -> Iterator[None]:
    """Without tracing, whatever the environment and airflow.cfg say."""
    before = environment.get(_TRACING)
    environment[_TRACING] = "False"
    try:
        yield
    finally:
        del environment[_TRACING]
        if before is not None:
            environment[_TRACING] = before


def parse(arguments: Sequence[str]) -> RunnerConfig:
    """The settings on the command line. Exits with 2 when they make no sense."""
    parser = argparse.ArgumentParser(
        prog="python -m isthmus.runner", description="The fork server of an Isthmus agent."
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(frames.SOCKET_OPTION, type=int, metavar="FD", help="inherited socket to the control process")
    where.add_argument("--socket", type=Path, metavar="PATH", help="UNIX socket to listen on for a control process")
    parser.add_argument("--control-user", metavar="USER", help="who may connect to --socket (default: own user)")
    parser.add_argument(frames.LOCK_OPTION, type=int, metavar="FD", help="inherited descriptor to keep open")
    parser.add_argument("--spares", type=int, default=2, metavar="N", help="supervisors kept ready (default: 2)")
    parser.add_argument(
        "--preload", action="append", default=[], metavar="MODULE", help="import MODULE once, for all tasks; repeatable"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=list(Shortcut), help="leave a shortcut out, to measure it"
    )
    options = parser.parse_args(arguments)
    if options.spares < 0:
        parser.error("--spares cannot be negative")
    return RunnerConfig(
        socket_fd=options.socket_fd,
        socket_path=options.socket,
        control_user=None if options.control_user is None else processes.find_user(options.control_user),
        lock_fd=options.lock_fd,
        spares=options.spares,
        preload=tuple(options.preload),
        without=frozenset(map(Shortcut, options.without)),
    )


def parse_component(arguments: Sequence[str]) -> int:
    """The number of the socket's descriptor. Exits with 2 when the command line makes no sense."""
    parser = argparse.ArgumentParser(prog="python -m isthmus.runner", description="A component of an Isthmus agent.")
    parser.add_argument("component", choices=COMPONENTS)
    parser.add_argument(
        frames.SOCKET_OPTION, type=int, required=True, metavar="FD", help="socket to the control process"
    )
    parser.add_argument(frames.LOCK_OPTION, type=int, metavar="FD", help="inherited descriptor to keep open")
    return int(parser.parse_args(arguments).socket_fd)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the fork server or a component to its end; 0, or 2 when it cannot be started like this."""
    logs.configure(form=logs.LogFormat.JSON)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if given and given[0] in COMPONENTS:
            socket_fd = parse_component(given)
            prepare_environment(os.environ)
            _imported(COMPONENTS[given[0]]).main(socket_fd)
        elif LOG_READING in given:  # whatever else the fork server is told
            prepare_environment(os.environ)
            _imported("isthmus.runner.log_reading").main()
        else:
            config = parse(given)
            prepare_environment(os.environ)
            with _tracing_held_back(os.environ):
                forkserver = _imported("isthmus.runner.forkserver")
            forkserver.main(config)
    except ConfigError as error:
        logs.get(logger_name="isthmus.runner").error(str(error), code=error.code, hint=error.hint)
        return 2
    return 0


def _imported(module: str) -> Any:
    """A module that imports Airflow, which reads the environment that was just prepared. Raises ConfigError."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"Airflow cannot be imported: {error}",
            code="airflow_missing",
            hint="install isthmus[runner] where the fork server runs, with apache-airflow>=3.3,<3.4",
        ) from error
    except Exception as error:
        # Airflow reads its whole configuration while it is imported, and raises all kinds of things.
        raise ConfigError(
            f"Airflow cannot be imported: {type(error).__name__}: {error}",
            code="airflow_unusable",
            hint="look at the AIRFLOW__* settings of the fork server's environment and at airflow.cfg",
        ) from error


if __name__ == "__main__":
    sys.exit(main())
