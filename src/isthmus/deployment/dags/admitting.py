"""What DAG files and callbacks may ask of Airflow's Execution API: XComs and runs of DAGs that their agent parses."""

from collections.abc import Sequence
from typing import Final
from uuid import UUID

from isthmus.deployment.errors import PlaneRefusedError, translated
from isthmus.deployment.pooling import Pool
from isthmus.wire.problems import Code

_PARSES: Final = """
SELECT EXISTS (
    SELECT FROM dag AS d JOIN isthmus_bundle AS b ON b.name = d.bundle_name WHERE d.dag_id = $1 AND b.agent_id = $2
)
"""


async def check(pool: Pool, agent_id: UUID, parts: Sequence[str]) -> None:
    """Raise PlaneRefusedError(TOKEN_SCOPE) for XComs and runs of a DAG in a bundle that the agent does not hold.

    ``parts`` is the path, split. Raises DatabaseError.
    """
    match parts:
        case ["xcoms", dag_id, *_] | ["dag-runs", dag_id, _, *_]:
            with translated():
                held = await pool.fetchval(_PARSES, dag_id, agent_id)
            if not held:
                raise PlaneRefusedError(
                    Code.TOKEN_SCOPE, f"A DAG processor may not ask for {parts[0]} of this DAG: it does not parse it."
                )
