"""Framing and taking lines apart, without I/O: what a client may send, and what it can rely on reading."""

from __future__ import annotations

import base64
import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.registry import commands
from proxyd.registry.framing import MAX_ANSWER, LineError, LineReader, answer_line, compressed, decode, to_json
from proxyd.registry.protocol import COMMANDS, CommandError, CommandErrorWith, parse

assert commands.__all__, "importing the handlers fills the command table"
LINE = st.binary(max_size=40).filter(lambda line: b"\n" not in line and not line.endswith(b"\r"))
JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
CONTROLS = [*range(0x20), 0x7F]


def lines(reader: LineReader) -> list[bytes]:
    found = []
    while (line := reader.next_line()) is not None:
        found.append(line)
    return found


@given(st.lists(LINE, max_size=10), st.data())
def test_lines_come_out_as_they_went_in_however_the_bytes_are_cut(sent: list[bytes], data: st.DataObject) -> None:
    stream = b"".join(line + b"\n" for line in sent)
    reader, found = LineReader(100), []
    while stream:
        size = data.draw(st.integers(1, len(stream)))
        reader.feed(stream[:size])
        stream = stream[size:]
        found += lines(reader)
    assert found == sent


def test_a_carriage_return_before_the_line_end_is_dropped_and_only_that_one() -> None:
    reader = LineReader(100)
    reader.feed(b"PING|a\r\nPI\rNG\n\r\n")
    assert lines(reader) == [b"PING|a", b"PI\rNG", b""]


def test_a_line_without_an_end_is_not_taken_yet() -> None:
    reader = LineReader(100)
    reader.feed(b"PING|a")
    assert reader.next_line() is None
    reader.feed(b"bc\n")
    assert reader.next_line() == b"PING|abc"


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_above_the_bound_is_fatal_with_or_without_its_end(end: bytes) -> None:
    reader = LineReader(16384)
    reader.feed(b"x" * 16385 + end)
    with pytest.raises(LineError, match=r"^line too long \(max 16384 bytes\)$") as caught:
        reader.next_line()
    assert caught.value.fatal


def test_a_line_of_exactly_the_bound_is_taken() -> None:
    reader = LineReader(16384)
    for end in (b"\n", b"\r\n"):
        reader.feed(b"x" * 16384 + end)
        assert reader.next_line() == b"x" * 16384
    reader.feed(b"x" * 16384 + b"\r")
    assert reader.next_line() is None, "the line's end may come yet"
    reader.feed(b"x\n")
    with pytest.raises(LineError):
        reader.next_line()


def test_short_lines_before_a_long_one_are_still_taken() -> None:
    reader = LineReader(10)
    reader.feed(b"one\ntwo\n" + b"x" * 50)
    assert [reader.next_line(), reader.next_line()] == [b"one", b"two"]
    with pytest.raises(LineError):
        reader.next_line()


@pytest.mark.parametrize("code", CONTROLS)
def test_a_control_character_is_refused_by_code_and_place_and_the_connection_goes_on(code: int) -> None:
    with pytest.raises(LineError, match=rf"^control character 0x{code:02x} at character 2$") as caught:
        decode(b"ab" + bytes([code]) + b"c")
    assert not caught.value.fatal


@pytest.mark.parametrize("code", range(0x80, 0xa0))
def test_so_is_one_beyond_ascii(code: int) -> None:
    with pytest.raises(LineError, match=rf"^control character 0x{code:02x} at character 2$"):
        decode(f"ab{chr(code)}c".encode())


@pytest.mark.parametrize("line", [b"\xff", b"ok\xc3", b"\xed\xa0\x80", b"\xc0\xaf", b"\xf8\x88\x80\x80\x80"])
def test_invalid_utf8_is_refused(line: bytes) -> None:
    with pytest.raises(LineError, match="^invalid UTF-8 at byte"):
        decode(line)


@given(st.binary(max_size=60))
def test_decoding_gives_the_text_or_a_line_error_and_nothing_else(line: bytes) -> None:
    try:
        text = decode(line)
    except LineError as error:
        assert not error.fatal
    else:
        assert text.encode() == line
        assert not any(ord(char) in CONTROLS for char in text)


@given(JSON)
def test_json_that_is_sent_holds_no_bar_and_no_line_end_and_reads_back_the_same(value: object) -> None:
    text = to_json(value)
    assert "|" not in text
    assert "\n" not in text
    assert json.loads(text) == value


def test_the_bar_in_json_is_written_as_an_escape_and_so_is_what_no_line_can_carry() -> None:
    assert to_json({"a|b": "c|d"}) == '{"a\\u007cb":"c\\u007cd"}'
    value = "\x00\n\x7f\x85\x9f\ud800"
    line = answer_line("X|" + to_json(value))
    assert line == b'X|"\\u0000\\n\\u007f\\u0085\\u009f\\ud800"\n'
    assert json.loads(line[2:]) == value


@given(JSON, st.sampled_from(["", "txn-7"]))
def test_an_answer_is_one_line_whose_json_survives(value: object, transaction: str) -> None:
    line = answer_line("LIST_OK|" + to_json(value), transaction)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields = line.decode("utf-8").rstrip("\n").split("|")
    assert fields[:-1] == (["LIST_OK", transaction] if transaction else ["LIST_OK"])


@given(st.text())
def test_no_answer_spans_lines_whatever_it_repeats(text: str) -> None:
    assert answer_line(f"ERROR|{text}").count(b"\n") == 1


@pytest.mark.parametrize(("answer", "expected"), [
    ("PONG", b"PONG|txn-7\n"), ("ROUTE_OK|r1", b"ROUTE_OK|txn-7|r1\n"), ("ERROR|no session", b"ERROR|txn-7|no session\n"),
    ("OK|", b"OK|txn-7|\n")])
def test_the_transaction_id_stands_behind_the_first_field(answer: str, expected: bytes) -> None:
    assert answer_line(answer, "txn-7") == expected


def test_an_answer_may_have_64_kib_less_one_byte_and_no_more() -> None:
    assert len(answer_line("x" * (MAX_ANSWER - 1))) == 65535
    assert answer_line("x" * MAX_ANSWER) == b"ERROR|response too large (65535 bytes), ask for compressed\n"
    assert answer_line("x" * MAX_ANSWER, "txn-1") == b"ERROR|txn-1|response too large (65541 bytes), ask for compressed\n"


def test_a_compressed_answer_may_have_a_mebibyte_and_is_not_told_to_be_compressed() -> None:
    assert len(answer_line("x" * 500_000, compressed=True)) == 500_001
    assert answer_line("x" * (1 << 20), compressed=True) == b"ERROR|response too large (1048576 bytes)\n"


def test_compressed_is_base64_of_gzip_of_the_text() -> None:
    assert gzip.decompress(base64.b64decode(compressed("[1,2]"))) == b"[1,2]"
    assert "|" not in compressed("x" * 10_000)


# -- taking a line apart


def test_the_last_declared_field_takes_the_rest_of_the_line() -> None:
    request = parse("HEADERS_SET|sid|ALL|X-A|a|b||c")
    assert request.values == ["sid", "ALL", "X-A", "a|b||c"]
    assert parse('REGISTER|app|i1|0|{"a":"|"}').values[-1] == '{"a":"|"}'


@given(st.lists(st.text(st.characters(blacklist_categories=["Cs", "Cc"]), max_size=8), min_size=1, max_size=6))
def test_whatever_is_behind_the_last_field_reaches_it_whole(parts: list[str]) -> None:
    assert parse("HEADERS_SET|sid|ALL|X-A|" + "|".join(parts)).values[3] == "|".join(parts)


def test_a_transaction_id_directly_behind_the_session_id_is_taken_out() -> None:
    request = parse("HEADERS_SET|sid|txn-9|ALL|X-A|v")
    assert (request.transaction, request.values) == ("txn-9", ["sid", "ALL", "X-A", "v"])
    assert parse("PING|sid|txn-").transaction == "txn-"


def test_what_looks_like_a_transaction_id_elsewhere_is_a_value() -> None:
    request = parse("HEADERS_SET|sid|ALL|X-A|txn-9")
    assert (request.transaction, request.values[-1]) == ("", "txn-9")
    assert parse("REGISTER|app|txn-1").values == ["app", "txn-1"]


def test_reconnect_carries_a_session_id_and_so_may_carry_a_transaction_id() -> None:
    request = parse("RECONNECT|sid|txn-3")
    assert (request.values, request.transaction) == (["sid"], "txn-3")


def test_too_few_fields_is_the_exact_message() -> None:
    with pytest.raises(CommandError) as caught:
        parse("ROUTE_ADD|sid|a.example|/")
    assert str(caught.value) == "ROUTE_ADD needs 5 fields: session_id|domains|path|backend_url|priority (got 3)"


def test_the_transaction_id_does_not_count_as_a_field_and_is_kept_for_the_error() -> None:
    with pytest.raises(CommandErrorWith) as caught:
        parse("ROUTE_ADD|sid|txn-4|a.example|/")
    assert (caught.value.transaction, str(caught.value)) == (
        "txn-4", "ROUTE_ADD needs 5 fields: session_id|domains|path|backend_url|priority (got 3)")


@pytest.mark.parametrize(("line", "name"), [("FOO", "FOO"), ("ping|sid", "ping"), (" PING|sid", " PING"), ("|", ""), ("X|a|b|c", "X")])
def test_an_unknown_command_is_the_exact_message(line: str, name: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(line)
    assert str(caught.value) == f"unknown command: {name}"


def test_an_unknown_command_keeps_its_transaction_id() -> None:
    with pytest.raises(CommandErrorWith) as caught:
        parse("FOO|sid|txn-2|x")
    assert caught.value.transaction == "txn-2"


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_says_what_it_needs_when_it_gets_nothing(name: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse(name)
    needed = COMMANDS[name].required
    assert str(caught.value) == f"{name} needs {needed} field{'s' * (needed > 1)}: {COMMANDS[name].usage()} (got 0)"


@given(st.sampled_from(sorted(COMMANDS)), st.text(st.characters(blacklist_categories=["Cs"])))
def test_any_line_is_taken_apart_or_refused_with_a_command_error(name: str, rest: str) -> None:
    try:
        request = parse(f"{name}|{rest}")
        request.parsed()
    except CommandError as error:
        assert str(error)
