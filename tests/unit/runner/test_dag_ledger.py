"""When a pass over a bundle has ended, and what the plane has of it."""

from isthmus.runner.dag_processing.ledger import MOVED_SECONDS, Ledger


def ledger(*files: str) -> Ledger:
    made = Ledger("etl", fence=1)
    made.present(files, "v1", None)
    return made


def settle(of: Ledger, path: str, content_hash: str, at: float) -> None:
    if of.parsed(path, content_hash, at):
        of.settled(path, content_hash, of.version)


def test_a_pass_ends_when_every_file_was_parsed_again() -> None:
    made = ledger("a.py", "b.py")
    settle(made, "a.py", "1", 10)
    assert not made.is_due(10)
    settle(made, "b.py", "2", 11)
    assert made.is_due(11)
    made.observed(12)
    assert not made.is_due(12)
    settle(made, "a.py", "1", 20)
    assert not made.is_due(20)
    settle(made, "b.py", "2", 21)
    assert made.is_due(21)
    assert made.hashes() == [("a.py", "1"), ("b.py", "2")]


def test_a_change_is_told_at_once_and_an_unchanged_file_is_not_sent() -> None:
    made = ledger("a.py", "b.py")
    settle(made, "a.py", "1", 10)
    settle(made, "b.py", "2", 10)
    made.observed(11)
    assert not made.parsed("a.py", "1", 20)
    assert made.parsed("a.py", "3", 21)
    made.settled("a.py", "3", "v1")
    assert made.is_due(21)


def test_a_deleted_file_a_new_version_and_a_new_fence_are_changes() -> None:
    made = ledger("a.py", "b.py")
    for path in ("a.py", "b.py"):
        settle(made, path, "1", 10)
    made.observed(11)
    assert made.present(["a.py"], "v1", None) == {"b.py"}
    assert made.is_due(12)
    made.observed(12)
    made.present(["a.py"], "v2", None)
    assert made.is_due(13)
    made.observed(13)
    made.renew(1)
    assert not made.is_due(14)
    made.renew(2)
    assert made.is_due(14)
    assert not made.parsed("b.py", "9", 15)  # deleted while it was parsed


def test_what_the_plane_wants_again_is_open_until_it_was_parsed() -> None:
    made = ledger("a.py", "b.py")
    for path in ("a.py", "b.py"):
        settle(made, path, "1", 10)
    made.observed(11)
    assert made.wanted(["b.py", "unheard-of.py"]) == {"b.py"}
    assert not made.is_due(12)
    assert made.parsed("b.py", "1", 13)
    made.settled("b.py", "1", "v1")
    assert made.is_due(13)


def test_an_empty_bundle_is_told_once() -> None:
    made = ledger()
    assert made.is_due(1)
    made.observed(1)
    assert not made.is_due(1000)
    assert not Ledger("unseen", fence=1).is_due(1000)


def test_a_file_without_a_change_moves_to_the_next_version() -> None:
    """It is not sent again, and told of with the pass; what was deleted or changed has not moved."""
    made = ledger("a.py", "b.py", "c.py")
    for path in ("a.py", "b.py", "c.py"):
        settle(made, path, "1", 10)
    made.observed(11)
    made.present(["a.py", "b.py", "c.py"], "v2", None)
    made.observed(12)
    assert not made.parsed("a.py", "1", 13)
    assert not made.parsed("b.py", "1", 13)
    assert made.parsed("c.py", "2", 13)
    made.settled("c.py", "2", "v2")
    assert made.moved == {"a.py", "b.py"}
    made.present(["a.py", "c.py"], "v2", None)
    assert made.moved == {"a.py"}
    made.told_moved()
    assert not made.moved
    assert not made.parsed("a.py", "1", 14)
    assert not made.moved


def test_what_has_moved_does_not_wait_for_a_long_pass() -> None:
    made = ledger("a.py", "b.py")
    for path in ("a.py", "b.py"):
        settle(made, path, "1", 10)
    made.present(["a.py", "b.py"], "v2", None)
    made.observed(11)
    made.parsed("a.py", "1", 12)
    assert not made.is_due(13)
    assert made.is_due(12 + MOVED_SECONDS)
    made.present(["a.py", "b.py"], "v3", None)
    made.observed(14)
    assert not made.moved  # it has to be parsed at that version first
    assert not made.is_due(12 + MOVED_SECONDS)


def test_a_version_with_data_beside_it_is_sent_file_by_file() -> None:
    made = ledger("a.py")
    settle(made, "a.py", "1", 10)
    made.present(["a.py"], "v2", None, has_data=True)
    assert made.parsed("a.py", "1", 11)
    made.settled("a.py", "1", "v2")
    assert not made.parsed("a.py", "1", 12)
    assert not made.moved
