"""Frames are cut wherever the stream was cut, and nothing of them stays."""

import socket
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isthmus.runner.receiving import Inbox, PeerError, read_head
from isthmus.wire import frames


def launch(size: int) -> frames.Launch:
    return frames.Launch(
        workload_id=uuid4(), kind="task", payload={"x": "y" * size}, gateway_socket="/s", gateway_token="secret"
    )


@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 3000), min_size=1, max_size=6),
    pieces=st.lists(st.integers(1, 4000), min_size=1),
    room=st.integers(8, 2000),
)
def test_any_cut_gives_the_same_frames(sizes: list[int], pieces: list[int], room: int) -> None:
    sent = [launch(size) for size in sizes]
    data = b"".join(map(frames.encode, sent))
    ours, theirs = socket.socketpair()
    received = []
    inbox = Inbox(room)
    with ours, theirs:
        theirs.setblocking(False)
        start = 0
        while start < len(data):
            piece = pieces[start % len(pieces)]
            ours.sendall(data[start : start + piece])
            start += piece
            while True:
                try:
                    inbox.receive_from(theirs)
                except BlockingIOError:
                    break
                received += [bytes(frame) for frame in inbox.frames()]
    assert received == list(map(frames.encode, sent))
    assert not any(inbox._buffer)


def test_a_head_is_all_that_is_read() -> None:
    one = launch(10)
    head = read_head(memoryview(frames.encode(one)))
    assert (head.type, head.workload_id) == ("launch", one.workload_id)
    kill = frames.Kill(workload_id=UUID(int=1), grace_seconds=2.5)
    assert read_head(memoryview(frames.encode(kill))).grace_seconds == 2.5


@pytest.mark.parametrize("body", [b"", b"{}", b"null", b'{"type": "dance"}', b'{"type": "kill", "workload_id": "x"}'])
def test_what_is_no_frame(body: bytes) -> None:
    with pytest.raises(PeerError):
        read_head(memoryview(frames.LENGTH.pack(len(body)) + body))


def test_an_oversize_frame_is_refused_before_it_has_come() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(frames.LENGTH.pack(frames.MAX_FRAME_BYTES + 1))
        inbox = Inbox()
        inbox.receive_from(theirs)
        with pytest.raises(PeerError, match="limit"):
            list(inbox.frames())
