"""All executors, round by round, so that whatever disturbs the machine disturbs all of them alike.

Two cores cannot hold two Airflows, so the stacks take turns: in each round every executor is started, warmed up,
measured and stopped, and the next round begins with another one.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from bench import capacity, components, installing, places, runs, services, stacks

ATTEMPTS = 2


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured. ``fan`` and ``chain`` name DAGs."""

    executors: tuple[str, ...]
    rounds: int
    chain: str
    fan: str
    idle_seconds: float

    @classmethod
    def full(cls, executors: Sequence[str], rounds: int = 3) -> "Plan":
        """What the published figures come from."""
        return cls(tuple(executors), rounds, "chain_20", "fan_200", 30.0)

    @classmethod
    def quick(cls, executors: Sequence[str], rounds: int = 1) -> "Plan":
        """Under ten minutes for all: shorter DAGs, one round. EdgeExecutor alone needs half of it."""
        return cls(tuple(executors), rounds, "chain_10", "fan_64", 8.0)


class Comparison:
    """The shared services and the stacks of one benchmark."""

    def __init__(self, plan: Plan) -> None:
        """Start PostgreSQL and redis, migrate, and create one database for each executor."""
        self.plan = plan
        self.redis: components.Component | None = None
        places.HOMES.mkdir(parents=True, exist_ok=True)
        self.database = services.Database()
        try:
            self.redis_port = stacks.free_port()
            if stacks.CeleryStack.label in plan.executors:
                self.redis = services.start_redis(installing.ensure_redis(), self.redis_port, stacks.bare_environment())
            self._say("migrating")
            self.database.migrate(stacks.migration_environment(self.database))
            self._stacks = {label: self._stack(label) for label in plan.executors}
            for stack in self._stacks.values():
                stack.create()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the services."""
        if self.redis is not None:
            components.stop_all([self.redis], spared=self._services())
        self.database.stop()

    def measure(self, keep: Callable[[str, dict[str, Any]], None]) -> list[str]:
        """Run all rounds; ``keep`` is given each executor's numbers as they come. Returns what failed, for people."""
        failed: list[str] = []
        order = list(self.plan.executors)
        for number in range(1, self.plan.rounds + 1):
            for label in order:
                numbers = self._round_of(label, number)
                if numbers is None:
                    failed.append(f"{label} in round {number}")
                else:
                    keep(label, numbers)
            order = order[1:] + order[:1]
        return failed

    def capacity(self, *, quick: bool) -> dict[str, Any]:
        """What one API process carries: heartbeats beside edge3's, and many agents."""
        plan = capacity.Plan.quick() if quick else capacity.Plan()
        edge = capacity.edge_heartbeats(self.database, plan, spared=self._services())
        self._say(f"edge3: {edge['per_second']:.0f} heartbeats/s, {edge['api_cpu_ms_each']:.2f} ms each")
        ours, load = capacity.remote_api(self.database, plan, spared=self._services())
        self._say(f"isthmus: {ours['per_second']:.0f} heartbeats/s, {ours['api_cpu_ms_each']:.2f} ms each")
        self._say(
            f"{load['agents']} agents: dispatch p50 {load['dispatch_p50_s'] * 1000:.1f} ms, "
            f"idle {load['idle_cpu_percent']['api']:.0f} % of a core, {load['api_rss_mb']:.0f} MB"
        )
        heartbeats = {"connections": capacity.CONNECTIONS, "edge3": edge, "isthmus": ours}
        return {"heartbeats": heartbeats, "load": load}

    def _round_of(self, label: str, number: int) -> dict[str, Any] | None:
        """One executor's numbers; None when it failed twice, which must not cost the others theirs."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return {"round": number, **self._measure(self._stacks[label])}
            except (components.ComponentError, runs.RunError, OSError) as error:
                self._say(f"{label}: attempt {attempt} failed: {error}")
        return None

    def _measure(self, stack: stacks.Stack) -> dict[str, Any]:
        begun = time.monotonic()
        try:
            stack.start()
            started = time.monotonic() - begun
            airflow = runs.Airflow(stack)
            # Memory of a worker that has run nothing yet; what tasks leave behind in it is measured at the end.
            numbers: dict[str, Any] = {"start_seconds": started, "fresh": runs.held(stack)}
            runs.warm_up(airflow)
            numbers["chain"] = runs.chain(airflow, stack, self.plan.chain)
            numbers["fan"] = runs.fan(airflow, stack, self.plan.fan)
            numbers["sleepers"] = runs.sleepers(airflow, stack)
            numbers["idle"] = runs.idle(stack, self.plan.idle_seconds)
        finally:
            stack.stop(spared=self._services())
        numbers["seconds"] = time.monotonic() - begun
        self._say(
            f"{stack.label}: dispatch {numbers['chain']['dispatch_p50_s'] * 1000:.0f} ms, "
            f"chain {numbers['chain']['chain_tasks_per_s']:.2f}/s, "
            f"fan {numbers['fan']['throughput_tasks_per_s']:.2f}/s, "
            f"worker CPU {numbers['fan']['worker_cpu_ms_per_task']:.0f} ms/task, "
            f"idle {numbers['fresh']['idle_rss_mb']:.0f} MB, task {numbers['sleepers']['task_private_mb']:.0f} MB, "
            f"others' CPU {numbers['fan']['foreign_cpu_percent']:.0f} %, {numbers['seconds']:.0f} s"
        )
        return numbers

    def _stack(self, label: str) -> stacks.Stack:
        match label:
            case stacks.LocalStack.label:
                return stacks.LocalStack(self.database)
            case stacks.CeleryStack.label:
                assert self.redis is not None
                return stacks.CeleryStack(self.database, self.redis, self.redis_port)
            case stacks.EdgeStack.label:
                return stacks.EdgeStack(self.database)
            case stacks.RemoteStack.label:
                return stacks.RemoteStack(self.database)
            case _:
                raise ValueError(f"no stack for {label}")

    def _services(self) -> set[int]:
        pids = {self.redis.pid} if self.redis is not None else set()
        with suppress(AssertionError):
            pids.add(self.database.pid)
        return pids

    @staticmethod
    def _say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)
