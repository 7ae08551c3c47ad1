"""Claims along several ways in turn, and how long each took: a program for a customer's network.

It reads one JSON object: ``url``, ``token``, ``ca``, ``ways`` (name to address), ``count``. It enrols an agent for each
way, whose queue is called as the way, claims one workload after the other, and prints the seconds of each way's claims.
"""

import json
import ssl
import sys
import time
import uuid
from urllib.parse import urlsplit

import httpx

VERSIONS = {"isthmus": "0.1.0", "airflow": "3.3.2", "task_sdk": "1.3.2", "python": "3.11.2"}


class Claimant:
    """An agent on one kept connection to one address."""

    def __init__(self, way: str, address: str, url: str, token: str, ca: str) -> None:
        parts = urlsplit(url)
        self._client = httpx.Client(
            base_url=f"https://{address}{parts.path}/agent/v1/",
            headers={"Authorization": f"Bearer {token}", "Host": str(parts.hostname)},
            verify=ssl.create_default_context(cafile=ca),
            timeout=20,
        )
        self._extensions = {"sni_hostname": str(parts.hostname)}
        self._who = {"instance_id": str(uuid.uuid4())}
        enrolment = {"name": f"claims-{way}", "role": "worker", "queues": [way], "slots": 1000, "versions": VERSIONS}
        self._who["agent_id"] = self._post("enrolments", **enrolment)["agent_id"]

    def claim(self) -> float:
        """The seconds that a claim took which was answered with one workload."""
        begun = time.perf_counter()
        answer = self._post("claims", claim_id=str(uuid.uuid4()), free_slots=1, wait_seconds=5)
        took = time.perf_counter() - begun
        assert len(answer["workloads"]) == 1, answer
        return took

    def close(self) -> None:
        self._client.close()

    def _post(self, path: str, **body: object) -> dict[str, list[object] | str]:
        answer = self._client.post(path, json={**self._who, **body}, extensions=self._extensions)
        assert answer.is_success, answer.text
        return dict(answer.json())


def main() -> None:
    given = json.load(sys.stdin)
    ways, count = given.pop("ways"), given.pop("count")
    claimants = {way: Claimant(way, address, **given) for way, address in ways.items()}
    took: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(count):
        # In turn, and each way as often first as last: what else the machine does meets both alike.
        for way in sorted(ways, reverse=number % 2 == 0):
            took[way].append(claimants[way].claim())
    for claimant in claimants.values():
        claimant.close()
    print(json.dumps(took))


if __name__ == "__main__":
    main()
