"""Names and paths as hypothesis makes them up."""

import re

from hypothesis import strategies as st

LABEL = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
#: What some take for an IPv4 address, in whatever base; it is no name.
NUMBERS = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)(?:\.(?:[0-9]+|0x[0-9a-f]*))*")
NAME = st.lists(LABEL, min_size=1, max_size=4).map(".".join).filter(lambda name: not NUMBERS.fullmatch(name))
PATH = st.lists(st.sampled_from(["a", "b", ".", "..", "", "%41", "%2e", "%2F", "%c3%a9", "x.y", "..."]), max_size=7).map(
    lambda segments: "/" + "/".join(segments))
