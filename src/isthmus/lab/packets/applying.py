"""Steps, done: with ``ip`` and ``nft``, all steps of one stage at the same time.

A step that was done already does no harm where ``ip`` can replace; where it cannot, it fails, and what is there has
to be observed again.
"""

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Final

from isthmus.kit import logs
from isthmus.lab.packets import namespaces
from isthmus.lab.packets.namespaces import PacketsError
from isthmus.lab.packets.planning import Stage, Step

log = logs.get(component="lab")

_AT_A_TIME: Final = 4

#: Called before each group of steps of one stage; tests end the process there.
Watch = Callable[[Stage, str], None]


async def apply(steps: Sequence[Step], watch: Watch | None = None) -> None:
    """Do ``steps``, which are in order. Raises PacketsError."""
    turns = asyncio.Semaphore(_AT_A_TIME)

    async def take(namespace: str, its: list[Step]) -> None:
        async with turns:
            if watch is not None:
                watch(its[0].stage, namespace)
            await namespaces.within(namespace, lambda: _do(its))

    for _, of_stage in groupby(steps, key=lambda step: step.stage):
        by_namespace: dict[str, list[Step]] = {}
        for step in of_stage:
            by_namespace.setdefault(step.namespace, []).append(step)
        results = await asyncio.gather(
            *(take(namespace, its) for namespace, its in by_namespace.items()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result


def _do(steps: Sequence[Step]) -> None:
    """The steps of one stage and namespace, in it."""
    for step in steps:
        for path, value in step.sysctls.items():
            _set(path, value)
    if commands := [command for step in steps for command in step.commands]:
        match steps[0].stage:
            case Stage.CUTS:
                _cut(commands)
            case Stage.NAMESPACES:
                _change_namespaces(commands)
            case _:
                namespaces.run_program("ip", "-batch", "-", given="\n".join((*commands, "")))
    if table := "".join(step.table for step in steps):
        namespaces.run_program("nft", "--file", "-", given=table)


def _change_namespaces(commands: Sequence[str]) -> None:
    gone = [command.split()[-1] for command in commands if command.startswith("netns del")]
    if gone:
        namespaces.remove(gone)
    made = [command for command in commands if command.startswith("netns add")]
    if made:
        namespaces.forget([command.split()[-1] for command in made])
        namespaces.run_program("ip", "-batch", "-", given="\n".join((*made, "")))


def _cut(commands: Sequence[str]) -> None:
    """Cut cables; one whose other end was cut already is gone."""
    try:
        namespaces.run_program("ip", "-force", "-batch", "-", given="\n".join((*commands, "")))
    except PacketsError as error:
        log.debug("some links were gone already", error=str(error))


def _set(path: str, value: str) -> None:
    try:
        Path("/proc/sys/net", path).write_text(value)
    except FileNotFoundError:
        if not path.startswith("ipv6/"):
            raise PacketsError(
                f"the kernel has no setting net/{path}", code="kernel_unfit", hint="Is connection tracking built in?"
            ) from None
    except OSError as error:
        raise PacketsError(f"cannot set net/{path}: {error}", code="sysctl_refused", hint="Are you root?") from error
