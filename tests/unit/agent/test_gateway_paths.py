"""Which request targets leave the gateway: nothing that anybody could read as another path of the plane."""

import posixpath
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isthmus.agent.gateway import is_forwardable


@pytest.mark.parametrize(
    "target",
    [
        b"/execution/task-instances/1/run",
        b"/execution/xcoms/dag/manual__2026-01-01T00%3A00%3A00%2B00%3A00/task/key?map_index=-1",
        b"/execution/variables/a.b..c",
        b"/execution/variables/...",
        b"/execution/variables/x?next=/../..",
        b"/execution/",
    ],
)
def test_what_goes_through(target: bytes) -> None:
    assert is_forwardable(target)


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"*",
        b"/",
        b"/execution",
        b"/execution?x",
        b"/Execution/x",
        b"/agent/v1/claims",
        b"execution/x",
        b"http://plane/execution/x",
        b"/execution/..",
        b"/execution/%2E%2e/agent",
        b"/execution/a%2f..%2f..%2fagent",
        b"/execution/%252e%252e/agent",
        b"/execution/a\\..\\agent",
        b"/execution/a%5c..",
        b"/execution/a%00b",
        b"/execution/x#/../agent",
    ],
)
def test_what_does_not(target: bytes) -> None:
    assert not is_forwardable(target)


_PIECES = st.sampled_from(
    ["/", "..", ".", "%2e", "%2E", "%2f", "%25", "a", "agent", "execution", "\\", "%5c", "?", ";"]
)


@given(st.lists(_PIECES, max_size=12))
def test_no_reader_of_what_goes_through_leaves_the_prefix(pieces: list[str]) -> None:
    target = "/execution/" + "".join(pieces)
    if not is_forwardable(target.encode()):
        return
    path = target.partition("?")[0]
    for _ in range(3):
        assert (posixpath.normpath(path.replace("\\", "/")) + "/").startswith("/execution/")
        path = unquote(path)
