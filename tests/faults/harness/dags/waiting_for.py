"""Triggers of the fault tests, and what is called by a deadline. Importable where triggers run."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.sdk import Connection, Variable
from airflow.sdk.execution_time.xcom import XCom
from airflow.triggers.base import BaseEventTrigger, TriggerEvent


class Gate(BaseEventTrigger):
    """Notes that it runs, waits for a file, fires; notes it when somebody ends its task."""

    supports_triggerer_queue = True

    def __init__(self, folder: str, gate: str = "open") -> None:
        super().__init__()
        self.folder = folder
        self.gate = gate

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "waiting_for.Gate", {"folder": self.folder, "gate": self.gate}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        self._note("started")
        while not (Path(self.folder) / self.gate).exists():
            await asyncio.sleep(0.1)
        self._note("fired")
        yield TriggerEvent({"gate": self.gate, "at": os.getppid()})

    async def on_kill(self) -> None:
        self._note("killed")

    def _note(self, what: str) -> None:
        with (Path(self.folder) / "notes").open("a") as notes:
            notes.write(f"{what} {os.getpid()}\n")


class Broken(Gate):
    """Fails as soon as it runs."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "waiting_for.Broken", {"folder": self.folder}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        await asyncio.sleep(0)
        raise ValueError("this trigger is broken")
        yield TriggerEvent(None)


class Reader(Gate):
    """Reads a connection, a variable and an XCom, and fires with what it has read."""

    def __init__(self, dag_id: str, run_id: str) -> None:
        super().__init__("")
        self.dag_id = dag_id
        self.run_id = run_id

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return "waiting_for.Reader", {"dag_id": self.dag_id, "run_id": self.run_id}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        connection = await asyncio.to_thread(Connection.get, "public_db")
        variable = await asyncio.to_thread(Variable.get, "shared_a")
        pushed = await asyncio.to_thread(
            XCom.get_one, key="return_value", task_id="push", dag_id=self.dag_id, run_id=self.run_id
        )
        yield TriggerEvent({"host": connection.host, "variable": variable, "pushed": pushed})


async def missed(folder: str, **_: Any) -> str:
    """The callback of a missed deadline."""
    (Path(folder) / "missed").touch()
    return "noted"
