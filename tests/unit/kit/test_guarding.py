"""A guarded loop's end is never silent."""

import asyncio

import pytest

from isthmus.kit import guarding
from isthmus.kit.errors import InternalError


async def _returns() -> None:
    await asyncio.sleep(0)


async def _fails() -> None:
    raise ValueError("broken")


async def _stays() -> None:
    await asyncio.Event().wait()


async def test_a_loop_that_returns_ends_the_group() -> None:
    async def component() -> None:
        async with asyncio.TaskGroup() as group:
            guarding.start(group, "stays", _stays())
            guarding.start(group, "returns", _returns())

    with pytest.raises(ExceptionGroup) as caught:
        await component()
    assert caught.group_contains(InternalError, match="'returns' ended by itself")


async def test_a_loop_that_may_end_ends_quietly() -> None:
    async with asyncio.TaskGroup() as group:
        task = guarding.start(group, "returns", _returns(), ends=True)
    assert task.get_name() == "returns"


async def test_a_failure_names_its_loop() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            guarding.start(group, "fails", _fails())
    assert caught.value.exceptions[0].__notes__ == ["in the loop 'fails'"]
