"""Run as a program: put a DAG with queued task instances, connections and variables into Airflow's database.

Prints the id and run id of each task instance as JSON.
"""

import datetime
import json
import sys
import uuid

from airflow._shared.timezones import timezone
from airflow.models import Connection, Variable
from airflow.models.dagbundle import DagBundleModel
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.serialization.definitions.dag import SerializedDAG
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
from sqlalchemy import select

with DAG("seeded", schedule=None, start_date=datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)) as dag:
    EmptyOperator(task_id="one", on_execute_callback=print)
lazy = LazyDeserializedDAG.from_dag(dag)
with create_session() as session:
    session.add(DagBundleModel(name="tests"))
    session.flush()
    SerializedDAG.bulk_write_to_db("tests", None, [lazy], session=session)
    SerializedDagModel.write_dag(lazy, bundle_name="tests", session=session)
    session.add(Connection("public_db", conn_type="postgres", host="db.example.org", password="p"))
    session.add(Connection("secret_db", conn_type="postgres", host="db.example.org", password="p"))
    for key in ("shared_a", "shared_b", "secret"):
        session.add(Variable(key=key, val="value of " + key))
found = []
for _ in range(int(sys.argv[1])):
    with create_session() as session:
        serialized = SerializedDagModel.get_dag("seeded", session=session)
        run_id = "manual__" + uuid.uuid4().hex
        serialized.create_dagrun(
            run_id=run_id,
            logical_date=None,
            run_after=timezone.utcnow(),
            run_type=DagRunType.MANUAL,
            triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.RUNNING,
            session=session,
        )
        session.flush()
        ti = session.scalars(select(TaskInstance).where(TaskInstance.run_id == run_id)).one()
        ti.state, ti.try_number = TaskInstanceState.QUEUED, 1
        session.flush()
        found.append([str(ti.id), run_id])
print(json.dumps(found))
