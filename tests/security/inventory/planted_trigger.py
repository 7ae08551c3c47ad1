"""The triggers of the inventory's DAG: importable where triggers run."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent


class Planted(BaseTrigger):
    """Logs something and fires with something."""

    def __init__(self, argument: str) -> None:
        super().__init__()
        self.argument = argument

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "planted_trigger.Planted", {"argument": self.argument}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(0)
        yield TriggerEvent("canary" + "-event")


class Failing(Planted):
    """Fails with something."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "planted_trigger.Failing", {"argument": self.argument}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(0)
        raise ValueError("canary" + "-traceback")
        yield TriggerEvent(None)
