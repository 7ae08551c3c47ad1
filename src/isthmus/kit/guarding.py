"""Named tasks whose end is never silent.

A component is an ``asyncio.TaskGroup`` of loops. A loop that fails ends the group with its exception, which names the
loop; a loop that returns although it was meant to run for as long as its component does is a bug of ours and ends the
group as well. What may end by itself says so with ``ends=True``.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from isthmus.kit.errors import InternalError


def start(
    group: asyncio.TaskGroup, name: str, loop: Coroutine[Any, Any, object], *, ends: bool = False
) -> asyncio.Task[None]:
    """Run ``loop`` in ``group`` under ``name``. A return without ``ends`` raises InternalError in the group."""
    return group.create_task(_guard(name, loop, ends=ends), name=name)


async def _guard(name: str, loop: Coroutine[Any, Any, object], *, ends: bool) -> None:
    try:
        await loop
    except Exception as error:
        error.add_note(f"in the loop {name!r}")
        raise
    if not ends:
        raise InternalError(f"the loop {name!r} ended by itself", code="loop_ended", hint="Please report this.")
