"""docs/reasons.md: a reason that is added to the table stands in it."""

from __future__ import annotations

from proxyd.base.reasons import GROUPS, Reason
from proxyd.docs import reasons


def test_a_reason_added_to_a_scratch_copy_of_the_table_is_in_the_document() -> None:
    added = Reason("too_early", 425, "The request came in early data. Wait for the end of the handshake")
    title, first = GROUPS[0]
    document = reasons.text(((title, (*first, added)), *GROUPS[1:]))
    assert "| `too_early` | 425 | The request came in early data. Wait for the end of the handshake |\n" in document
    assert "too_early" not in reasons.text()
