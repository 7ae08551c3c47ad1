import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from isthmus.deployment.matching import Claim, QueuedRow, match

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
QUEUES = ("default", "gpu", "edge")


def row(queue: str = "default", priority: int = 0, age: int = 0) -> QueuedRow:
    return QueuedRow(uuid.uuid4(), queue, priority, NOON - timedelta(seconds=age))


def claim(place: int, free_slots: int, *queues: str) -> Claim:
    return Claim(uuid.uuid4(), uuid.uuid4(), frozenset(queues or ("default",)), free_slots, place)


rows = st.lists(st.builds(row, st.sampled_from(QUEUES), st.integers(-2, 2), st.integers(0, 5)), max_size=40)


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    drawn = draw(st.lists(st.tuples(st.sets(st.sampled_from(QUEUES), min_size=1), st.integers(0, 6)), max_size=12))
    return [claim(place, slots, *queues) for place, (queues, slots) in enumerate(drawn)]


@given(rows, claims())
def test_a_match_respects_queues_and_slots_and_leaves_nothing_that_could_go_out(
    queued: list[QueuedRow], waiting: list[Claim]
) -> None:
    pairs = match(queued, waiting)
    taken = [queued_row.workload_id for queued_row, _ in pairs]
    assert len(taken) == len(set(taken))
    used = Counter(taker.place for _, taker in pairs)
    for queued_row, taker in pairs:
        assert queued_row.queue in taker.queues
    for each in waiting:
        assert used[each.place] <= each.free_slots
    left_over = {queued_row.queue for queued_row in queued if queued_row.workload_id not in set(taken)}
    for each in waiting:
        if used[each.place] < each.free_slots:
            assert not each.queues & left_over


@given(rows, claims())
def test_rows_of_a_queue_go_out_by_priority_and_then_by_age(queued: list[QueuedRow], waiting: list[Claim]) -> None:
    out = {queued_row.workload_id for queued_row, _ in match(queued, waiting)}
    for gone in queued:
        for left in queued:
            if gone.queue == left.queue and gone.workload_id in out and left.workload_id not in out:
                assert (-gone.priority, gone.queued_at) <= (-left.priority, left.queued_at)


@given(st.integers(1, 30), st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_work_spreads_over_agents_with_the_most_free_slots(count: int, slots: list[int]) -> None:
    waiting = [claim(place, free) for place, free in enumerate(slots)]
    used = Counter(taker.place for _, taker in match([row() for _ in range(count)], waiting))
    left = [free - used[place] for place, free in enumerate(slots)]
    for place, remaining in enumerate(left):
        # An agent that got something was among those with the most free slots when it got the last of it.
        if used[place]:
            assert remaining + 1 >= max(left)


def test_the_claim_that_has_waited_longest_is_served_first_among_equals() -> None:
    late, early = claim(2, 1), claim(1, 1)
    [(_, taker)] = match([row()], [late, early])
    assert taker is early


def test_two_thousand_claims_and_five_hundred_rows_are_matched_within_milliseconds() -> None:
    waiting = [claim(place, 4, "default", "gpu") for place in range(2000)]
    queued = [row(QUEUES[place % 2]) for place in range(500)]
    spent = []
    for _ in range(3):
        begun = time.process_time()  # CPU, so that a busy machine does not decide
        assert len(match(queued, waiting)) == 500
        spent.append(time.process_time() - begun)
    assert min(spent) < 0.1
