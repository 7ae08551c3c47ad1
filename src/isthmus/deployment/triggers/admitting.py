"""As whom a trigger calls Airflow's Execution API.

A triggerer calls for all its triggers under one component token, whose subject is its agent. That is not enough where
Airflow asks who calls: human-in-the-loop details belong to one task instance, and the state of an asset that is watched
is written by nobody's task. There the plane puts a token of its own in the place of the agent's, after it has looked
whether the agent runs that task's trigger; it is minted for one call and never leaves the plane. XComs are open for
the DAGs, and writable for the runs, of which the agent runs a trigger.
"""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Pool
from isthmus.deployment.triggers import holding
from isthmus.wire.problems import Code

#: Airflow's word for "no task" in the state store of assets (``asset_state_store.NULL_UUID``).
NO_TASK: Final = str(UUID(int=0))

_READS: Final = frozenset({"GET", "HEAD"})


async def subject(pool: Pool, agent_id: UUID, method: str, parts: Sequence[str]) -> str | None:
    """The subject of the token for a triggerer's call; None for the agent's own. ``parts`` is the path, split.

    Raises PlaneRefusedError(TOKEN_SCOPE) for what its triggers have no part in, and DatabaseError.
    """
    match parts:
        case ["hitlDetails", task_instance_id]:
            if not await _holds_task(pool, agent_id, task_instance_id):
                raise _refused("the details of this task instance: the agent does not run its trigger")
            return str(UUID(task_instance_id))
        case ["store", "asset", *_]:
            return NO_TASK
        case ["store", *_]:
            raise _refused("the state of tasks")
        case ["xcoms", dag_id, run_id, *_]:
            with translated():
                held = await holding.holds_run(pool, agent_id, dag_id, None if method in _READS else run_id)
            if not held:
                raise _refused("these XComs: the agent runs no trigger of this DAG or run")
            return None
        case _:
            return None


async def _holds_task(pool: Pool, agent_id: UUID, task_instance_id: str) -> bool:
    try:
        asked = UUID(task_instance_id)
    except ValueError:
        return False
    with translated():
        return await holding.holds_task(pool, agent_id, asked)


def _refused(what: str) -> PlaneRefusedError:
    return PlaneRefusedError(Code.TOKEN_SCOPE, f"A triggerer may not ask for {what}.")
