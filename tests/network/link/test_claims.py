"""What a link costs: claims through it beside claims on the direct path, from the same network."""

import json
import statistics
import sys
from pathlib import Path

from network.link.customers import Customer
from network.link.provider import Provider

#: A claim through the link takes at most this many times one on the direct path.
LIMIT = 1.1
COUNT = 200
#: Other programs run on the machine of the tests: one quiet moment of these is enough.
ATTEMPTS = 4

_QUEUE = """
    INSERT INTO isthmus_workload (id, kind, queue, display_name, payload, subject_id)
    SELECT gen_random_uuid(), 'task', way, 'dag.task', '{"ti": {}}', gen_random_uuid()::text
    FROM unnest(%s) AS way, generate_series(1, %s)
"""


def test_a_claim_through_the_link_costs_little_more(provider: Provider, one: Customer) -> None:
    ways = {"direct": provider.public_address, "link": one.address()}
    ratios: list[float] = []
    for _ in range(ATTEMPTS):
        took = measure(provider, one, ways)
        direct, link = (statistics.median(took[way]) for way in ways)
        ratios.append(link / direct)
        print(f"a claim: {direct * 1e3:.2f} ms direct, {link * 1e3:.2f} ms through the link, {ratios[-1]:.3f} times")
        if ratios[-1] <= LIMIT:
            break
    assert min(ratios) <= LIMIT


def measure(provider: Provider, here: Customer, ways: dict[str, str]) -> dict[str, list[float]]:
    database = provider.deployment.database
    database.rows("DELETE FROM isthmus_workload WHERE queue = ANY(%s)", (list(ways),))
    database.rows(_QUEUE, (list(ways), COUNT))
    asked = {
        "url": provider.deployment.url,
        "token": provider.token("claims"),
        "ca": str(provider.authority),
        "ways": ways,
        "count": COUNT,
    }
    try:
        done = here.run(sys.executable, str(Path(__file__).with_name("claiming.py")), given=json.dumps(asked))
        assert done.returncode == 0, done.stderr
    finally:
        database.rows("DELETE FROM isthmus_workload WHERE queue = ANY(%s)", (list(ways),))
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found
