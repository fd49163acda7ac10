"""The settings: defaults, file, environment, and every mistake named with file, line and what was expected."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyd.config.ini import read_ini
from proxyd.config.settings import SECTIONS, Settings, SettingsError, environment_name, load, setting_declarations


def written(directory: Path, content: str) -> str:
    path = directory / "proxyd.ini"
    path.write_text(content, encoding="utf-8")
    return str(path)


def messages(path: str | None, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(path, environment or {})
    return [str(problem) for problem in caught.value.problems]


def test_without_file_and_environment_the_defaults_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert load(environment={}) == Settings()
    assert load(environment={}).proxy.bind == "127.0.0.1:8000"


def test_the_file_beats_the_default_and_the_environment_beats_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, "[proxy]\nbind = :9000\nbacklog = 10\n[log]\nlevel = debug ; loud\n")
    settings = load(path, {"PROXYD_PROXY_BACKLOG": "20", "HOME": "/", "PROXYD_TLS_MIN_VERSION": "1.3"})
    assert (settings.proxy.bind, settings.proxy.backlog, settings.log.level) == ("0.0.0.0:9000", 20, "debug")
    assert settings.tls.min_version == "1.3"
    assert settings.file == path


def test_the_config_file_is_named_by_a_variable(tmp_path: Path) -> None:
    path = written(tmp_path, "[proxy]\nvia = me\n")
    assert load(environment={"PROXYD_CONFIG": path}).proxy.via == "me"


def test_all_mistakes_are_told_at_once_each_with_its_line(tmp_path: Path) -> None:
    path = written(tmp_path, "[proxy]\nbnd = :9000\nkeepalive_timeout = soon\n[regisry]\nbind = :1\nnonsense\n[log]\nlevel=x\n")
    found = messages(path, {"PROXYD_PROXY_WORKERS": "many", "PROXYD_PROXY_BAKLOG": "1"})
    assert found == [
        f'{path}:2: unknown setting "bnd" in [proxy] (did you mean bind?)',
        f'{path}:3: [proxy] keepalive_timeout: "soon" is not a duration (like 30s, 1h30m, 500ms, or whole seconds)',
        f"{path}:4: unknown section [regisry] (did you mean registry?)",
        f'{path}:6: "nonsense" is neither [section] nor key = value',
        f'{path}:8: [log] level: "x" is not one of debug, info, warning, error',
        'environment PROXYD_PROXY_WORKERS: [proxy] workers: "many" is not a whole number',
        'environment PROXYD_PROXY_BAKLOG: unknown setting "baklog" in [proxy] (did you mean backlog?)',
    ]


@pytest.mark.parametrize("storage", ["memcached://x", "redi://127.0.0.1:6379/0", "redis://", "unix:///run/redis.sock", ""])
def test_rate_limits_are_counted_in_shared_memory_or_redis_and_nowhere_else(tmp_path: Path, storage: str) -> None:
    found = messages(written(tmp_path, f"[ratelimit]\nstorage = {storage}\n"))
    assert len(found) == 1 and "is neither shared nor a Redis url (redis://host:port/db" in found[0]


def test_a_file_that_is_named_must_be_there_and_be_text(tmp_path: Path) -> None:
    assert "can't read the config file" in messages(str(tmp_path / "absent.ini"))[0]
    (tmp_path / "binary.ini").write_bytes(b"\xff\xfe[proxy]")
    assert "can't read the config file" in messages(str(tmp_path / "binary.ini"))[0]


def test_a_key_before_any_section_is_refused(tmp_path: Path) -> None:
    assert any("before any [section]" in message for message in messages(written(tmp_path, "bind = :1\n")))


def test_environment_of_others_is_left_alone() -> None:
    assert load("/dev/null", {"PROXYD_HOME": "/x", "PROXYDX": "1", "PROXYD_": "2"}) == load("/dev/null", {})


@pytest.mark.parametrize("section", SECTIONS)
def test_every_default_written_as_text_gives_the_default(section: str) -> None:
    environment = {environment_name(section, key): declaration.default
                   for key, declaration in setting_declarations(section).items()}
    assert load("/dev/null", environment) == load("/dev/null", {})
    assert all(declaration.help for declaration in setting_declarations(section).values())


def test_indented_lines_continue_a_value_and_comments_are_dropped() -> None:
    entries, problems = read_ini("# c\n; c\n[a]\nKey = one, # why\n    two\n\nother=#kept\n[a]\n", "f", lambda section: None)
    assert problems == []
    assert [(entry.section, entry.key, entry.name, entry.value, entry.line) for entry in entries] == [
        ("a", "key", "Key", "one, two", 4), ("a", "other", "other", "", 7)]


def test_a_setting_that_is_a_text_has_no_comment_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "proxyd.ini"
    path.write_text("[database]\nurl = postgresql://u:a ;b #c@h/d\n[proxy]\nbacklog = 9 ; why\n[maintenance]\npage = /srv/#1 ; x.html\n")
    settings = load(str(path), {})
    assert (settings.database.url, settings.proxy.backlog, settings.maintenance.page) == (
        "postgresql://u:a ;b #c@h/d", 9, "/srv/#1 ; x.html")


WORD = st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True)
#: A value of words of which none begins a comment. Words of a list come sooner than those of one expression, by far.
_VISIBLE = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=6)
VALUE = st.lists(st.tuples(st.sampled_from([chr(code) for code in range(0x21, 0x7F) if chr(code) not in "#;"]), _VISIBLE).map("".join),
                 max_size=3).map(" ".join)


@given(st.lists(st.tuples(WORD, st.dictionaries(WORD, VALUE, max_size=6)), max_size=6, unique_by=lambda section: section[0]))
def test_every_ini_written_is_read_back(sections: list[tuple[str, dict[str, str]]]) -> None:
    lines, expected = [], []
    for section, pairs in sections:
        lines.append(f"[{section}]")
        for key, value in pairs.items():
            lines.append(f"{key} = {value}")
            expected.append((section, key, value, len(lines)))
    entries, problems = read_ini("\n".join(lines), "f", lambda section: None)
    assert problems == []
    assert [(entry.section, entry.key, entry.value, entry.line) for entry in entries] == expected


@pytest.mark.parametrize(("environment", "directory"), [
    ({"PROXYD_DATABASE_URL": "sqlite:////srv/x/proxyd.db"}, "/srv/x"), ({"PROXYD_DATABASE_URL": "sqlite:///p.db"}, "."),
    ({"PROXYD_DATABASE_URL": "postgresql://h/d"}, "var"), ({"PROXYD_DATABASE_SHARED_MEMORY": "/dev/shm/p"}, "/dev/shm/p"),
    ({}, "var"),
])
def test_shared_memory_lies_beside_the_database_unless_told_otherwise(environment: dict[str, str], directory: str) -> None:
    settings = load("/dev/null", environment)
    assert settings.shared_memory_directory() == directory
    # And what else is one proxy's alone.
    assert settings.pid_file() == f"{directory}/master.pid"
    assert load("/dev/null", environment | {"PROXYD_MASTER_PID_FILE": "/run/p.pid"}).pid_file() == "/run/p.pid"


def test_workers_are_as_many_as_told_or_as_the_host_has_cores() -> None:
    assert load("/dev/null", {"PROXYD_PROXY_WORKERS": "3"}).worker_count() == 3
    assert load("/dev/null", {}).worker_count() >= 1
