"""The small texts: what is written is read back, and what can't be read is refused with a sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.base import text

YEARS = 10 * 365 * 86400


@pytest.mark.parametrize(("written", "seconds"), [
    ("30", 30.0), ("30s", 30.0), ("1h30m", 5400.0), ("1.5s", 1.5), ("250us", 0.00025), ("500ms", 0.5), ("7d", 604800.0),
    (" 2m ", 120.0), (".5s", 0.5), ("1m1ms", 60.001), ("10µs", 0.00001), ("3650d", float(YEARS)),
])
def test_a_duration_is_read_in_gos_syntax_or_as_whole_seconds(written: str, seconds: float) -> None:
    assert text.parse_duration(written) == pytest.approx(seconds)


@pytest.mark.parametrize("written", ["", "0", "0s", "-1s", "1.5", "s", "1x", "1h 30m", "3651d", "1e3s", "nan", "inf", "٣s"])
def test_a_duration_that_is_none_is_refused_by_name(written: str) -> None:
    with pytest.raises(ValueError, match="duration|ten years"):
        text.parse_duration(written)


@pytest.mark.parametrize("written", ["0", "0s", "off", "none", " OFF "])
def test_zero_turns_a_bound_off_where_that_is_allowed(written: str) -> None:
    assert text.parse_duration_or_zero(written) == 0.0


@given(st.integers(1, YEARS * 1_000_000))
def test_every_duration_written_is_read_back_to_the_microsecond(micro: int) -> None:
    assert round(text.parse_duration(text.format_duration(micro / 1e6)) * 1e6) == micro


@given(st.floats(0, YEARS, exclude_min=True))
def test_every_duration_written_is_read_back_exactly(seconds: float) -> None:
    assert text.parse_duration(text.format_duration(seconds)) == seconds


@pytest.mark.parametrize(("seconds", "written"), [(5400, "1h30m"), (0.25, "250ms"), (0, "0"), (86400, "1d"), (0.00002, "20us"),
                                                  (2.5e-7, "250ns"), (1e-9, "1ns"), (1.5, "1500ms"), (0.0023, "2300us"),
                                                  (1e-12, "0.000000000001s"), (0.1 + 0.2, "0.30000000000000004s")])
def test_a_duration_is_written_as_short_as_it_can_be(seconds: float, written: str) -> None:
    assert text.format_duration(seconds) == written


@given(st.integers(0, 1 << 49))
def test_every_size_written_is_read_back(size: int) -> None:
    assert text.parse_size(text.format_size(size)) == size


@pytest.mark.parametrize(("written", "size"), [("64k", 65536), ("10M", 10 << 20), ("1 GiB", 1 << 30), ("2kb", 2048), ("7", 7)])
def test_sizes_are_powers_of_1024(written: str, size: int) -> None:
    assert text.parse_size(written) == size


@pytest.mark.parametrize("written", ["", "k", "-1k", "1.5k", "1p", "1kk", "10 m b"])
def test_a_size_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        text.parse_size(written)


def test_yes_and_no_have_many_spellings_and_nothing_else_passes() -> None:
    assert all(text.parse_bool(word) for word in ("true", "YES", "on", "1", " True "))
    assert not any(text.parse_bool(word) for word in ("false", "No", "off", "0"))
    for word in ("", "2", "maybe", "y"):
        with pytest.raises(ValueError, match="yes or no"):
            text.parse_bool(word)


@given(st.integers(-(10**15) + 1, 10**15 - 1))
def test_every_whole_number_of_fifteen_digits_is_read(number: int) -> None:
    assert text.parse_int(str(number)) == number


@pytest.mark.parametrize("written", ["", "1.0", "1e3", "0x10", "1_000", "１２", "1000000000000000", "--1"])
def test_a_number_that_python_alone_would_take_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="whole number"):
        text.parse_int(written)


@given(st.lists(st.from_regex(r"[a-z0-9.*-]+", fullmatch=True)), st.sampled_from([",", " ", ", ", "\t,\n", ",,"]))
def test_a_list_has_the_same_items_however_it_is_separated(items: list[str], separator: str) -> None:
    assert text.split_list(separator.join(items)) == tuple(items)


@given(st.lists(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), max_size=5))
def test_addresses_are_networks_of_one(addresses: list[object]) -> None:
    networks = text.parse_networks(", ".join(map(str, addresses)))
    assert [network.network_address for network in networks] == addresses
    assert all(network.num_addresses == 1 for network in networks)


def test_a_bad_network_is_named() -> None:
    with pytest.raises(ValueError, match='"10.0.0.0/33"'):
        text.parse_networks("10.0.0.0/8 10.0.0.0/33")
    assert str(text.parse_networks("10.1.2.3/8")[0]) == "10.0.0.0/8"


@given(st.frozensets(st.integers(100, 599), min_size=1))
def test_every_set_of_statuses_written_is_read_back(codes: frozenset[int]) -> None:
    assert text.parse_status_set(text.format_status_set(codes)) == codes


def test_statuses_are_codes_ranges_and_classes() -> None:
    assert text.parse_status_set("204, 301-303 5XX") == {204, 301, 302, 303, *range(500, 600)}
    assert text.format_status_set({*range(200, 300), 404}) == "2xx,404"


@pytest.mark.parametrize("written", ["", " , ", "99", "600", "399-200", "2x", "6xx", "200-", "200-700"])
def test_a_status_set_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="status code"):
        text.parse_status_set(written)


@pytest.mark.parametrize(("written", "normal"), [
    ("127.0.0.1:8000", "127.0.0.1:8000"), (":8000", "0.0.0.0:8000"), ("[::1]:080", "[::1]:80"), ("localhost:1", "localhost:1"),
    ("unix:/run/x.sock", "unix:/run/x.sock"),
])
def test_an_address_is_brought_to_one_form_and_stays_there(written: str, normal: str) -> None:
    assert text.parse_address(written) == normal
    assert text.parse_address(normal) == normal


@pytest.mark.parametrize("written", ["", "8000", "host", "host:", "host:65536", "::1:80", "a b:80", "unix:", "host:-1"])
def test_an_address_that_is_none_is_refused(written: str) -> None:
    with pytest.raises(ValueError, match="is not an address|names no socket"):
        text.parse_address(written)


def test_an_address_is_split_into_host_and_port() -> None:
    assert text.split_address("[::1]:80") == ("::1", 80)
    assert text.split_address("127.0.0.1:8000") == ("127.0.0.1", 8000)


@pytest.mark.parametrize(("address", "loopback"), [
    ("127.0.0.1:1", True), ("127.9.9.9:1", True), ("[::1]:1", True), ("localhost:1", True), ("unix:/x", True),
    ("0.0.0.0:1", False), ("[::]:1", False), ("10.0.0.1:1", False), ("example.com:1", False),
])
def test_loopback_is_what_only_this_host_reaches(address: str, loopback: bool) -> None:
    assert text.is_loopback(address) is loopback


@given(st.integers(0, 4_102_444_800_000))
def test_every_instant_written_is_read_back_to_the_millisecond(milli: int) -> None:
    written = text.rfc3339(milli / 1000)
    assert written.endswith("Z") and len(written) == 24
    assert round(text.parse_rfc3339(written) * 1000) == milli


def test_a_suggestion_comes_only_for_close_words() -> None:
    assert text.suggest("timeot", ["timeout", "weight"]) == " (did you mean timeout?)"
    assert text.suggest("zzz", ["timeout", "weight"]) == ""
