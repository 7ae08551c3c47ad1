"""A hostile DAG, and its victim.

``attack`` is what a malicious or compromised author of DAGs can run: it starts ``attack.py`` with everything that a
task has, and hands it the task's own memory. ``suffer`` is another task of the same agent, which waits for its gate.
Each exists for two queues: that of an agent in the production set-up, and that of a careless one.
"""

import ctypes
import json
import os
import re
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from airflow.sdk import DAG, get_current_context, task

MAPPING = re.compile(r"([0-9a-f]+)-([0-9a-f]+) r\S* \S+ \S+ \S+\s*(.*)")
REGION_BYTES = 16 * 1024 * 1024


def own_memory() -> Iterator[tuple[str, bytes]]:
    """Everything that this process can read of itself, which is more than /proc/self/mem gives to a process that is not
    dumpable."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        mapping = MAPPING.match(line)
        if mapping is None or mapping[3] in {"[vvar]", "[vsyscall]", "[vvar_vclock]"} or mapping[3].endswith(".so"):
            continue
        start, end = int(mapping[1], 16), int(mapping[2], 16)
        if mapping[3].startswith("/") and not os.access(mapping[3], os.R_OK):
            continue
        for address in range(start, end, REGION_BYTES):
            size = min(REGION_BYTES, end - address)
            yield f"own memory {address:x} {mapping[3]}", ctypes.string_at(address, size)


def counted(memory: Iterator[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Without what is empty: most of a process's memory was never written."""
    for name, content in memory:
        if any(content):
            yield name, content


def attack() -> None:
    orders = (get_current_context()["dag_run"].conf or {})["attack"]
    program = Path(__file__).with_name("attack.py")
    with subprocess.Popen([sys.executable, program], stdin=subprocess.PIPE, close_fds=False) as attacker:
        assert attacker.stdin is not None
        orders = {**orders, "environment": dict(os.environ), "task_pid": os.getpid()}
        for name, content in [("orders", json.dumps(orders).encode()), *counted(own_memory())]:
            attacker.stdin.write(struct.pack(">II", len(name), len(content)) + name.encode() + content)
        attacker.stdin.close()
    assert attacker.returncode == 0


def suffer() -> None:
    conf = get_current_context()["dag_run"].conf or {}
    Path(conf["started"]).write_text(str(os.getpid()))
    deadline = time.monotonic() + 200
    while not Path(conf["gate"]).exists() and time.monotonic() < deadline:
        time.sleep(0.1)


for queue in ("hostile", "careless"):
    for function in (attack, suffer):
        dag_id = f"{queue}-{function.__name__}"
        with DAG(dag_id, schedule=None, catchup=False, is_paused_upon_creation=False) as dag:
            task(queue=queue, retries=0)(function)()
        globals()[dag_id.replace("-", "_")] = dag
