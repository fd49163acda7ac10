"""Where WebSocket frames end, in any pieces, and the close frame as another library reads it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import ConnectionType
from wsproto.connection import Connection
from wsproto.events import CloseConnection

from proxyd.proxy.upstream.frames import FrameBoundary, close_frame
from tests.support.websockets import frame

FRAMES = st.builds(frame, st.integers(0, 15), st.sampled_from([0, 1, 125, 126, 127, 65535, 65536]).map(bytes), st.booleans(),
                   st.integers(0, 7), st.booleans())


@settings(max_examples=160, deadline=None)
@given(st.lists(FRAMES, min_size=1, max_size=6), st.booleans(), st.data())
def test_the_end_of_a_frame_is_known_in_any_pieces_and_nowhere_else(frames: list[bytes], skips: bool, data: st.DataObject) -> None:
    stream = b"".join(frames)
    ends = {0, *(len(b"".join(frames[:count])) for count in range(1, len(frames) + 1))}
    near = sorted(min(max(end + shift, 0), len(stream)) for end in ends for shift in (-1, 0, 1, 2, 3))
    cuts = sorted(data.draw(st.lists(st.one_of(st.sampled_from(near), st.integers(0, len(stream))), max_size=12)))
    boundary, at = FrameBoundary(), 0
    for cut in (*cuts, len(stream)):
        piece, at = stream[at:cut], cut
        if not (skips and boundary.skip(piece)):
            boundary.feed(piece)
        assert boundary.between is (at in ends), at


@pytest.mark.parametrize("masked", [True, False])
def test_the_close_frame_is_one(masked: bool) -> None:
    peer = Connection(ConnectionType.SERVER if masked else ConnectionType.CLIENT)
    peer.receive_data(close_frame(1001, masked))
    assert list(peer.events()) == [CloseConnection(code=1001, reason="")]
    boundary = FrameBoundary()
    boundary.feed(close_frame(1001, masked))
    assert boundary.between
