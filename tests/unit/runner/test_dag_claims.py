"""Callbacks and files to parse first, under their leases."""

from typing import Any

from isthmus.runner.dag_processing.claims import MAX_TRIES, Claims
from isthmus.wire import dags

#: Ids as Airflow makes them.
ONE, TWO, THREE = (digit * 32 for digit in "123")


def claim(claim_id: str, *, fence: int = 1, callback: bool = True, bundle: str = "etl") -> dags.DagClaim:
    kind = dags.DagClaimKind.CALLBACK if callback else dags.DagClaimKind.PARSE
    request: dict[str, Any] | None = {"type": "DagCallbackRequest"} if callback else None
    return dags.DagClaim(
        claim_id=claim_id, fence=fence, kind=kind, bundle=bundle, relative_fileloc="a.py", lease_seconds=60,
        request=request,
    )  # fmt: skip


def test_a_callback_comes_once_and_is_settled_when_it_has_ended() -> None:
    claims = Claims()
    claims.take([claim(ONE)], now=0)
    (one,) = claims.new_callbacks()
    assert claims.new_callbacks() == []
    assert claims.due(10) == ((), ())
    claims.settle(one)
    done, extended = claims.due(10)
    assert [(each.claim_id, each.released) for each in done] == [(ONE, False)]
    assert extended == ()
    assert claims.due(10)[0] == done  # until the plane has answered
    claims.told(done, (), (), now=11)
    assert claims.due(12) == ((), ())


def test_a_lease_is_extended_in_time_and_a_lost_one_is_dropped() -> None:
    claims = Claims()
    claims.take([claim(ONE), claim(TWO)], now=0)
    first, second = claims.new_callbacks()
    _, extended = claims.due(31)
    assert [each.claim_id for each in extended] == [ONE, TWO]
    claims.told((), extended, [TWO], now=31)
    assert claims.due(40) == ((), ())
    assert claims.is_open(first)
    assert not claims.is_open(second)


def test_one_that_is_handed_out_again_while_it_runs_is_not_run_twice() -> None:
    claims = Claims()
    claims.take([claim(ONE, fence=1)], now=0)
    (one,) = claims.new_callbacks()
    claims.take([claim(ONE, fence=2)], now=90)
    assert claims.new_callbacks() == []
    claims.settle(one)
    assert claims.due(91)[0][0].fence == 2


def test_one_whose_process_dies_is_given_back_but_not_for_ever() -> None:
    claims = Claims()
    released = []
    for fence in range(1, MAX_TRIES + 1):
        claims.take([claim(ONE, fence=fence)], now=0)
        (one,) = claims.new_callbacks()
        claims.died(one)
        (reference,) = claims.due(0)[0]
        released.append(reference.released)
        claims.told((reference,), (), (), now=0)
    assert released == [True] * (MAX_TRIES - 1) + [False]


def test_a_file_is_served_when_the_plane_has_it_and_dropped_with_its_bundle() -> None:
    claims = Claims()
    claims.take([claim(ONE, callback=False), claim(TWO, callback=False, bundle="other"), claim(THREE)], now=0)
    assert [one.claim_id for one in claims.new_parses()] == [ONE, TWO]
    claims.parsed("etl", "a.py")
    assert [each.claim_id for each in claims.due(0)[0]] == [ONE]
    claims.drop(["etl"])
    assert claims.new_callbacks() == []
    assert [each.claim_id for each in claims.due(59)[1]] == [TWO]
