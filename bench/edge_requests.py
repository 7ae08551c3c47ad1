"""Registers edge3 workers and prints their heartbeats, signed and ready to send, as JSON.

A program of its own, started with a stack's environment: edge3 signs with the deployment's secret and describes itself
with what it reads from Airflow's configuration. ``python -m bench.edge_requests URL COUNT``
"""

import datetime
import json
import sys
import urllib.request

import airflow
import airflow.providers.edge3 as edge3
from airflow.api_fastapi.auth.tokens import JWTGenerator
from airflow.providers.common.compat.sdk import conf

PREFIX = "/edge_worker/v1/"


def main() -> int:
    """Register and print."""
    url, count = sys.argv[1], int(sys.argv[2])
    signer = JWTGenerator(secret_key=conf.get("api_auth", "jwt_secret"), valid_for=7200, audience="api")
    state = {
        "jobs_active": 0,
        "queues": ["nowhere"],
        "sysinfo": {
            "status": 20,
            "airflow_version": airflow.__version__,
            "edge_provider_version": edge3.__version__,
            "python_version": sys.version,
            "worker_start_time": datetime.datetime.now(datetime.UTC).isoformat(),
            "concurrency": 8,
            "free_concurrency": 8,
        },
        "maintenance_comments": None,
        "team_name": None,
    }
    requests = []
    for number in range(count):
        name = f"worker/beat-{number:03d}"
        headers = {"Content-Type": "application/json", "Authorization": signer.generate({"method": name})}
        registration = urllib.request.Request(
            url + PREFIX + name,
            method="POST",
            data=json.dumps({**state, "state": "starting"}).encode(),
            headers=headers,
        )
        urllib.request.urlopen(registration, timeout=30).close()
        requests.append(
            {
                "method": "PATCH",
                "path": PREFIX + name,
                "headers": {"Authorization": headers["Authorization"]},
                "body": json.dumps({**state, "state": "idle"}),
            }
        )
    json.dump(requests, sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
