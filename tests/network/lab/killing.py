"""A lab that ends by SIGKILL at its n-th step, for tests: ``isthmus lab serve`` with what the product does not have.

Started like it, with the file that ``LAB_TEST_ARM`` names beside: as long as that holds a number, steps are counted
down from it. Steps are what a crash could fall between: before and after a change is on disk, before each group of
commands of one namespace, before and after resolvers and relays are told.
"""

import functools
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from isthmus.cli import main
from isthmus.lab import serving
from isthmus.lab.packets.relays import Relays
from isthmus.lab.packets.resolving import Resolvers
from isthmus.lab.store import Store

ARM = Path(os.environ["LAB_TEST_ARM"])


def step(what: str) -> None:
    """Count one; the end if it is the one."""
    try:
        left = int(ARM.read_text())
    except (OSError, ValueError):
        return
    if left <= 1:
        _tell(f"killed {what}")
        os.kill(os.getpid(), signal.SIGKILL)
    _tell(str(left - 1))


def _tell(text: str) -> None:
    """Write over what is there, in one piece: the test reads and removes the file at any time."""
    with suppress(OSError), ARM.open("r+") as file:
        file.write(text.ljust(120))


def around(method: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*arguments: Any) -> Any:
        step(f"before {what}")
        result = method(*arguments)
        step(f"after {what}")
        return result

    return wrapped


def around_async(method: Callable[..., Awaitable[Any]], what: str) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def wrapped(*arguments: Any, **more: Any) -> Any:
        step(f"before {what}")
        result = await method(*arguments, **more)
        step(f"after {what}")
        return result

    return wrapped


if __name__ == "__main__":
    Store.commit = around(Store.commit, "the change is kept")  # type: ignore[method-assign]
    Resolvers.converge = around_async(Resolvers.converge, "resolvers are told")  # type: ignore[method-assign]
    Relays.converge = around_async(Relays.converge, "relays are told")  # type: ignore[method-assign]
    watch = lambda stage, namespace: step(f"before {stage.name} of {namespace}")  # noqa: E731
    serving.Packets = functools.partial(serving.Packets, watch=watch)  # type: ignore[misc,assignment]
    sys.exit(main.run(["lab", "serve", *sys.argv[1:]]))
