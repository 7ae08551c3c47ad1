"""The load generator: a process of its own that acts as many agents, or as sixteen that do not pause.

Reads what to do as JSON on standard input and writes what it saw as JSON on standard output; ``capacity`` starts it on
a core that the server does not use. Simulated agents do what agents do (enrol, heartbeat, hold a claim open, start and
settle what they are given) over real HTTPS, each on two connections, as an agent's own client ends up with.

Invariant: bounded in time and number; an answer that is not 2xx is counted and ends up in the result.
"""

import asyncio
import importlib.metadata
import json
import platform
import random
import resource
import ssl
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import uvloop

from bench import measuring
from bench.connections import Answer, Connection, ConnectionLostError, Origin, request_bytes
from bench.percentiles import percentile
from isthmus.deployment.tables import QUEUED_CHANNEL
from isthmus.wire import paths

SHARED_QUEUE = "shared"
SLOTS = 4
PAUSE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Plane:
    """Where the Remote Execution API is, and how to come in."""

    origin: Origin
    prefix: str
    token: str

    def request(self, path: str, body: dict[str, Any]) -> bytes:
        """A request of the agent API."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return request_bytes(self.origin, "POST", self.prefix + path, headers, json.dumps(body).encode())


@dataclass(slots=True)
class Record:
    """What all simulated agents saw."""

    answers: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    committed: dict[str, float] = field(default_factory=dict)
    latencies: dict[str, float] = field(default_factory=dict)
    settled: int = 0

    def note(self, kind: str, answer: Answer) -> Answer:
        """Count an answer."""
        self.answers[kind] += 1
        if not 200 <= answer.status < 300:
            self.failures[f"{kind} {answer.status}: {answer.body[:160].decode(errors='replace')}"] += 1
        return answer


class SimulatedAgent:
    """One agent without tasks: what it is given succeeds at once."""

    def __init__(self, plane: Plane, number: int, record: Record) -> None:
        """Nothing is sent yet."""
        self.name = f"load-{number:05d}"
        self.queue = f"of-{self.name}"
        self._plane = plane
        self._record = record
        self._claims = Connection(plane.origin)
        self._others = Connection(plane.origin)
        self._others_free = asyncio.Lock()
        self._instance = str(uuid4())
        self._identity: dict[str, str] = {}
        self._heartbeat = b""
        self._heartbeat_seconds = 10.0
        self._claim_wait = 25.0

    async def enrol(self) -> None:
        """Join the deployment."""
        body = {
            "name": self.name,
            "role": "worker",
            "instance_id": self._instance,
            "queues": [self.queue, SHARED_QUEUE],
            "slots": SLOTS,
            "versions": {"isthmus": importlib.metadata.version("isthmus"), "python": platform.python_version()},
        }
        answer = await self._send("enrolment", paths.ENROLMENTS, body)
        if answer.status >= 300:
            raise ConnectionLostError(f"enrolment refused: {answer.body[:300].decode(errors='replace')}")
        reply = json.loads(answer.body)
        self._identity = {"agent_id": reply["agent_id"], "instance_id": self._instance}
        self._heartbeat_seconds = reply["heartbeat_seconds"]
        self._claim_wait = reply["claim_wait_seconds"]
        self._heartbeat = self.heartbeat_request()

    def heartbeat_request(self) -> bytes:
        """The heartbeat of an agent that holds nothing."""
        body = {**self._identity, "phase": "ready", "slots_used": 0, "leases": [], "warnings": []}
        return self._plane.request(paths.HEARTBEATS, body)

    async def keep_in_touch(self) -> None:
        """Heartbeat at the plane's interval, each agent at its own moment."""
        await asyncio.sleep(random.random() * self._heartbeat_seconds)
        while True:
            try:
                async with self._others_free:
                    self._record.note("heartbeat", await self._others.send(self._heartbeat))
            except ConnectionLostError as error:
                self._record.failures[f"heartbeat: {error}"] += 1
            await asyncio.sleep(self._heartbeat_seconds)

    async def work(self) -> None:
        """Hold a claim open, for ever; start and settle what comes."""
        while True:
            claim = {
                **self._identity,
                "claim_id": str(uuid4()),
                "free_slots": SLOTS,
                "wait_seconds": self._claim_wait,
                "repeated": False,
            }
            try:
                answer = await self._claims.send(self._plane.request(paths.CLAIMS, claim))
                arrived = time.perf_counter()
                self._record.note("claim", answer)
                if answer.status >= 300:
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                workloads = json.loads(answer.body)["workloads"]
                for workload in workloads:
                    committed = self._record.committed.get(workload["workload_id"])
                    if committed is not None:
                        self._record.latencies.setdefault(workload["workload_id"], arrived - committed)
                if workloads:
                    await self._finish(workloads)
            except ConnectionLostError as error:
                self._record.failures[f"claim: {error}"] += 1
                await asyncio.sleep(PAUSE_SECONDS)

    async def _finish(self, workloads: list[dict[str, Any]]) -> None:
        leases = [{"workload_id": one["workload_id"], "fence": one["fence"]} for one in workloads]
        await self._send("start", paths.STARTS, {**self._identity, "leases": leases})
        settlements = [{**lease, "outcome": "succeeded", "exit_code": 0} for lease in leases]
        answer = await self._send("settlement", paths.SETTLEMENTS, {**self._identity, "settlements": settlements})
        if answer.status < 300:
            verdicts = json.loads(answer.body)["verdicts"]
            self._record.settled += sum(verdict["verdict"] == "settled" for verdict in verdicts)

    async def _send(self, kind: str, path: str, body: dict[str, Any]) -> Answer:
        async with self._others_free:
            return self._record.note(kind, await self._others.send(self._plane.request(path, body)))

    def close(self) -> None:
        """Close both connections."""
        self._claims.close()
        self._others.close()


# --- workloads ---

# The columns that the executor writes; Airflow's own payload of a task is about this large.
_INSERT = """
INSERT INTO isthmus_workload (id, kind, queue, display_name, payload, subject_id, dag_id, task_id, run_id, map_index,
                              try_number)
VALUES ($1, 'task', $2, 'load', $3::jsonb, $4, 'load', 'no_op', 'load', -1, 1)
"""


def payload(subject_id: str, queue: str) -> str:
    """Airflow's JSON of a task without its token, as the executor stores it."""
    return json.dumps(
        {
            "type": "ExecuteTask",
            "token": "",
            "dag_rel_path": "load.py",
            "bundle_info": {"name": "dags-folder", "version": None},
            "log_path": f"dag_id=load/run_id=load/task_id=no_op/{subject_id}/attempt=1.log",
            "sentry_integration": "",
            "ti": {
                "id": subject_id,
                "dag_version_id": str(UUID(int=1)),
                "task_id": "no_op",
                "dag_id": "load",
                "run_id": "load",
                "try_number": 1,
                "map_index": -1,
                "pool_slots": 1,
                "queue": queue,
                "priority_weight": 1,
                "executor_config": None,
                "parent_context_carrier": {},
                "context_carrier": {},
            },
        }
    )


async def insert(connection: asyncpg.Connection, queue: str, record: Record) -> str:
    """Queue one workload as the scheduler's transaction does; the clock starts before the commit."""
    workload_id, subject_id = uuid4(), uuid4()
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(_INSERT, workload_id, queue, payload(str(subject_id), queue), str(subject_id))
    await connection.execute("SELECT pg_notify($1, '')", QUEUED_CHANNEL)
    record.committed[str(workload_id)] = time.perf_counter()
    await transaction.commit()
    return str(workload_id)


async def dispatch(
    connection: asyncpg.Connection, queues: Sequence[str], record: Record, *, rate: float, seconds: float
) -> dict[str, Any]:
    """Queue ``rate`` workloads a second for random ``queues``; how long until each was claimed?"""
    ids: list[str] = []
    started = time.perf_counter()
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        ids.append(await insert(connection, random.choice(queues), record))
    await _until(lambda: all(one in record.latencies for one in ids), 30.0)
    latencies = [record.latencies[one] for one in ids if one in record.latencies]
    return {
        "workloads": len(ids),
        "never_claimed": len(ids) - len(latencies),
        "rate_per_s": rate,
        "p50_s": percentile(latencies, 50),
        "p95_s": percentile(latencies, 95),
        "p99_s": percentile(latencies, 99),
        "max_s": max(latencies),
    }


# --- the two things that can be asked for ---


class Watch:
    """CPU of the server, of PostgreSQL, of this process, and of all that has no part in it, between two moments."""

    def __init__(self, pids: dict[str, int]) -> None:
        """Start watching."""
        self._pids = pids
        self._began = time.perf_counter()
        self._first = self._read()

    def _read(self) -> dict[str, float]:
        table = measuring.process_table()
        cpu = {name: measuring.tree_cpu_seconds(table, pid) for name, pid in self._pids.items()}
        cpu["generator"] = time.process_time()
        return {**cpu, "others": measuring.machine_time().busy_seconds - sum(cpu.values())}

    def cpu_seconds(self) -> dict[str, float]:
        """CPU since the start."""
        return {name: value - self._first[name] for name, value in self._read().items()}

    def percents(self) -> dict[str, float]:
        """The same as percents of one core."""
        seconds = time.perf_counter() - self._began
        return {name: 100 * value / seconds for name, value in self.cpu_seconds().items()}


async def simulate(task: dict[str, Any]) -> dict[str, Any]:
    """Many agents, first idle, then with work for single ones and for any of them."""
    record = Record()
    plane = Plane(_origin(task), task["prefix"], task["token"])
    agents = [SimulatedAgent(plane, number, record) for number in range(task["agents"])]
    memory_before = measuring.memory([task["pids"]["api"]]).rss_sum_mb
    began = time.perf_counter()
    gate = asyncio.Semaphore(32)

    async def enrol(agent: SimulatedAgent) -> None:
        async with gate:
            await agent.enrol()

    async with asyncio.TaskGroup() as group:
        for agent in agents:
            group.create_task(enrol(agent))
    enrolled = time.perf_counter() - began
    loops = [asyncio.create_task(loop) for agent in agents for loop in (agent.keep_in_touch(), agent.work())]
    connection = await asyncpg.connect(task["dsn"])
    try:
        # All claims are open and the first heartbeats are spread after one interval.
        await asyncio.sleep(task["settle_seconds"])
        watch, answers = Watch(task["pids"]), record.answers.copy()
        await asyncio.sleep(task["idle_seconds"])
        idle_cpu = watch.percents()
        idle_rate = {
            kind: (count - answers[kind]) / task["idle_seconds"] for kind, count in sorted(record.answers.items())
        }
        memory = measuring.memory([task["pids"]["api"]]).rss_sum_mb
        busy = Watch(task["pids"])
        asked = {"rate": task["rate"], "seconds": task["dispatch_seconds"]}
        own = await dispatch(connection, [agent.queue for agent in agents], record, **asked)
        shared = await dispatch(connection, [SHARED_QUEUE], record, **asked)
        busy_cpu = busy.percents()
        expected = own["workloads"] + shared["workloads"]
        await _until(lambda: record.settled >= expected, 15.0)
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        for agent in agents:
            agent.close()
        await connection.close()
    return {
        "agents": len(agents),
        "enrolment_seconds": enrolled,
        "idle_cpu_percent": idle_cpu,
        "idle_requests_per_s": idle_rate,
        "api_rss_mb": memory,
        "api_rss_kb_per_agent": 1024 * (memory - memory_before) / len(agents),
        "dispatch_p50_s": own["p50_s"],
        "own_queue": own,
        "shared_queue": shared,
        "dispatching_cpu_percent": busy_cpu,
        "settled": record.settled,
        "failures": dict(record.failures),
    }


async def beat(task: dict[str, Any]) -> dict[str, Any]:
    """Send prepared heartbeats without a pause, sixteen at a time."""
    origin = _origin(task)
    requests = [
        request_bytes(origin, one["method"], one["path"], one["headers"], one["body"].encode())
        for one in task["requests"]
    ]
    if not requests:
        requests = await _our_heartbeats(origin, task)
    record = Record()
    latencies: list[float] = []
    place = iter(range(10**9))
    ends = 0.0

    async def client() -> None:
        connection = Connection(origin)
        while time.perf_counter() < ends:
            began = time.perf_counter()
            try:
                answer = record.note("heartbeat", await connection.send(requests[next(place) % len(requests)]))
            except ConnectionLostError as error:
                record.failures[str(error)] += 1
                continue
            if answer.status < 300:
                latencies.append(time.perf_counter() - began)
        connection.close()

    async def clients(seconds: float) -> None:
        nonlocal ends
        ends = time.perf_counter() + seconds
        await asyncio.gather(*(client() for _ in range(task["connections"])))

    await clients(task["warm_up_seconds"])
    latencies.clear()
    record.failures.clear()
    watch, began = Watch(task["pids"]), time.perf_counter()
    await clients(task["seconds"])
    seconds, cpu = time.perf_counter() - began, watch.cpu_seconds()
    return {
        "per_second": len(latencies) / seconds,
        "api_cpu_ms_each": 1000 * cpu["api"] / len(latencies),
        "cpu_percent": {name: 100 * value / seconds for name, value in cpu.items()},
        "p50_ms": 1000 * percentile(latencies, 50),
        "p99_ms": 1000 * percentile(latencies, 99),
        "answers": len(latencies),
        "failures": dict(record.failures),
    }


async def _our_heartbeats(origin: Origin, task: dict[str, Any]) -> list[bytes]:
    """Enrol the agents whose heartbeats are sent."""
    plane, record = Plane(origin, task["prefix"], task["token"]), Record()
    agents = [SimulatedAgent(plane, number, record) for number in range(task["agents"])]
    for agent in agents:
        await agent.enrol()
    requests = [agent.heartbeat_request() for agent in agents]
    for agent in agents:
        agent.close()
    return requests


async def _until(done: Callable[[], bool], seconds: float) -> None:
    """Wait until ``done``, or until time is over."""
    deadline = time.perf_counter() + seconds
    while not done() and time.perf_counter() < deadline:  # noqa: ASYNC110 - counters of many tasks are watched
        await asyncio.sleep(0.1)


def _origin(task: dict[str, Any]) -> Origin:
    tls = ssl.create_default_context(cafile=task["ca"]) if task["ca"] else None
    return Origin(task["host"], task["port"], tls)


def main() -> int:
    """Do what standard input says."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    task = json.load(sys.stdin)
    actions = {"simulate": simulate, "beat": beat}
    json.dump(uvloop.run(actions[task["action"]](task)), sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
