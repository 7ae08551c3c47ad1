"""Waits grow, are bounded, are jittered, and start anew only after lasting success."""

from hypothesis import given
from hypothesis import strategies as st

from isthmus.kit.backoffs import Backoff, BackoffConfig
from isthmus.kit.clocks import ManualClock

PLAIN = BackoffConfig(first_seconds=1.0, longest_seconds=10.0, jitter=0.0, reset_after_seconds=30.0)


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(PLAIN, ManualClock())
    assert [backoff.failed() for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


def test_a_success_that_does_not_last_resets_nothing() -> None:
    clock = ManualClock()
    backoff = Backoff(PLAIN, clock)
    backoff.failed()
    backoff.succeeded()
    clock.advance(29.0)
    assert backoff.failed() == 2.0


def test_a_lasting_success_starts_the_sequence_anew() -> None:
    clock = ManualClock()
    backoff = Backoff(PLAIN, clock)
    for _ in range(5):
        backoff.failed()
    backoff.succeeded()
    clock.advance(20.0)
    backoff.succeeded()  # still the same success
    clock.advance(10.0)
    assert backoff.failed() == 1.0
    assert backoff.failures == 1


@given(st.integers(1, 5000), st.floats(0, 1), st.floats(0, 1))
def test_every_wait_is_within_its_bounds(failures: int, jitter: float, chance: float) -> None:
    config = BackoffConfig(first_seconds=0.5, longest_seconds=30.0, jitter=jitter)
    backoff = Backoff(config, ManualClock(), chance=lambda: chance)
    for _ in range(failures):
        wait = backoff.failed()
        assert 0.5 * (1 - jitter) - 1e-9 <= wait <= 30.0
