"""Variables in values of header fields: which are known, what is text, and what is refused."""

from __future__ import annotations

import pytest

from proxyd.base.variables import MAX_VARIABLES, VARIABLES, check, parse


@pytest.mark.parametrize(("value", "parts"), [
    ("plain", "plain"), ("", ""), ("{host}", ("", "host", "")), ("a{host}b{path}", ("a", "host", "b", "path", "")),
    ("{{host}}", "{host}"), ("{{no such}} {{thing}}", "{{no such}} {thing}"), ("{{host}}{host}", ("{host}", "host", "")),
    ('{"group":"a","max_age":{"b":1}}', '{"group":"a","max_age":{"b":1}}'), ("{} { host } }{", "{} { host } }{"),
    ("{{{host}}}", "{{host}}"), ("{unknown}", "{unknown}"),
])  # fmt: skip
def test_braces_are_variables_where_a_name_stands_in_them(value: str, parts: str | tuple[str, ...]) -> None:
    assert parse(value) == parts


@pytest.mark.parametrize(("value", "message"), [
    ("{Host}", r'"\{Host\}" is no variable'), ("{client-ip}", r"did you mean client_ip\?"),
    ("{a} {host}", r"Write \{\{a\}\} for the text \{a\}"),
    ("{host}" * (MAX_VARIABLES + 1), "9 variables are more than 8"), ("{tls.client.name}", "is no variable"),
])  # fmt: skip
def test_what_can_never_be_filled_is_refused(value: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(value)


def test_all_that_is_known_or_text_passes() -> None:
    for name in VARIABLES:
        check(f"{{{name}}} {{{{{name}}}}}")
    check("{host}" * MAX_VARIABLES)
    check('{"a": {}} {{anything}} { host }')
