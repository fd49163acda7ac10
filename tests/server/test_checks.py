"""`proxyd check`: each thing that is wrong is named with its place."""

from __future__ import annotations

import datetime
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from proxyd.config.settings import SettingsError, load
from proxyd.registry.auth import new_token
from proxyd.server.checks import check

SITE = "[site]\nservice = {service}\n\n[route main]\ndomains = a.test\npath = {path}\nbackends = http://10.0.0.1:80\n"


def configuration(tmp_path: Path, content: str = "") -> Path:
    (tmp_path / "sites").mkdir(exist_ok=True)
    file = tmp_path / "proxyd.ini"
    # What the test sets itself leaves empty lines, as nothing may be set twice.
    database = "\n\n" if "[database]" in content else f"[database]\nurl = sqlite:///{tmp_path}/p.db\n"
    sites = "\n\n" if "[sites]" in content else f"[sites]\ndirectory = {tmp_path}/sites\n"
    file.write_text(database + sites + content)
    return file


def found(tmp_path: Path, content: str = "", **environment: str) -> list[str]:
    """The problems of a config file, `content` from its line 5 on."""
    file = configuration(tmp_path, content)
    return [str(problem).replace(f"{tmp_path}/", "") for problem in check(load(str(file), environment))]


def make_certificate(path: Path, days: int = 30, key: bool = True, other_key: bool = False,
                     passphrase: bytes = b"") -> Path:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(private.public_key())
                   .serial_number(1).not_valid_before(now - datetime.timedelta(days=90))
                   .not_valid_after(now + datetime.timedelta(days=days)).sign(private, hashes.SHA256()))
    content = certificate.public_bytes(serialization.Encoding.PEM)
    if other_key:
        private = ec.generate_private_key(ec.SECP256R1())
    if key:
        content += private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                                         serialization.BestAvailableEncryption(passphrase) if passphrase
                                         else serialization.NoEncryption())
    path.write_bytes(content)
    return path


def test_a_sound_configuration_has_no_problems_and_is_not_changed(tmp_path: Path) -> None:
    token, kept = new_token()
    (tmp_path / "tokens").write_text(f"[token ci]\nhash = {kept}\nservices = ci\n")
    (tmp_path / "admin-token").write_text(token)
    (tmp_path / "page.html").write_text("<p>later</p>")
    make_certificate(tmp_path / "a.pem")
    configuration(tmp_path)
    (tmp_path / "sites" / "a.ini").write_text(SITE.format(service="a", path="/"))
    (tmp_path / "sites" / "b.ini").write_text(SITE.format(service="b", path="/b"))
    before = sorted(tmp_path.rglob("*"))
    assert found(tmp_path, f"""[tls]
bind = 127.0.0.1:8443
certificates = {tmp_path}/a.pem
[registry]
bind = 0.0.0.0:8181
tokens_file = {tmp_path}/tokens
tls_certificate = {tmp_path}/a.pem
tls_client_ca = {tmp_path}/a.pem
[admin]
token_file = {tmp_path}/admin-token
[maintenance]
page = {tmp_path}/page.html
[log]
access = {tmp_path}/logs/access.log
[alerts]
webhook = https://hooks.example/services/x
""") == []
    assert sorted(tmp_path.rglob("*")) == before


def test_defaults_are_sound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert check(load(environment={})) == []


@pytest.mark.parametrize(("content", "line", "told"), [
    ("[tls]\nbind = 127.0.0.1:8443\n", 6, "certificates names no file"),
    ("[tls]\ncertificates = {dir}/none.pem\nbind = :8443\n", 6, "can't read the certificate none.pem: No such file"),
    ("[tls]\ncertificates = {dir}/good.pem, {dir}/text\nbind = :8443\n", 6, "text holds no PEM certificate"),
    ("[tls]\ncertificates = {dir}/keyless.pem\nbind = :8443\n", 6, "keyless.pem holds no private key"),
    ("[tls]\ncertificates = {dir}/otherkey.pem\nbind = :8443\n", 6, "the key in otherkey.pem is not that of its certificate"),
    ("[tls]\ncertificates = {dir}/ended.pem\nbind = :8443\n", 6, "the certificate ended.pem expired on"),
    ("[tls]\ncertificates = {dir}/encrypted.pem\nbind = :8443\n", 6, "the key in encrypted.pem is encrypted"),
    ("[tls]\ncertificates = {dir}/good.pem, {dir}/again.pem\nbind = :8443\n", 6, "again.pem is never shown: good.pem comes first"),
    ("[tls]\ncertificates = {dir}/good.pem\n", 6, "nobody listens for HTTPS"),
    ("[proxy]\nredirect_https = yes\n", 6, "there is no HTTPS here"),
    ("[proxy]\nhsts = 1h\n", 6, "there is no HTTPS here"),
    ("[admin]\nallow_unprotected = yes\nbind = :8000\n", 7, "0.0.0.0:8000 is taken by [proxy] bind = 127.0.0.1:8000"),
    ("[registry]\nbind = unix:{dir}/s\n\n[admin]\nbind = unix:{dir}/s\n", 9, "is taken by [registry] bind"),
    ("[admin]\ntoken_file = {dir}/foreign\n", 6, "is not printable ASCII"),
    ("[registry]\nbind = 0.0.0.0:8181\n", 6, "anyone who can connect could take your traffic"),
    ("[registry]\ntls_certificate = {dir}/none.pem\n", 6, "can't read the certificate none.pem"),
    ("[registry]\ntls_client_ca = {dir}/text\ntls_certificate = {dir}/good.pem\n", 6, "can't use text"),
    ("[registry]\ntls_client_ca = {dir}/good.pem\n", 6, "need [registry] tls_certificate"),
    ("[registry]\ntokens_file = {dir}/none\n", 6, "can't read the tokens file"),
    ("[admin]\nbind = 0.0.0.0:8383\n", 6, "anyone who can connect could see routes, sessions and traffic"),
    ("[admin]\ntoken_file = {dir}/none\n", 6, "can't read none: No such file"),
    ("[admin]\ntoken_file = {dir}/empty\n", 6, "the first line of empty is empty"),
    ("[admin]\nviewer_token_file = {dir}/none\n", 6, "can't read none: No such file"),
    ("[admin]\ntoken_file = {dir}/text\nviewer_token_file = {dir}/text\n", 7, "whoever may look could act, too"),
    ("[maintenance]\npage = {dir}/none.html\n", 6, "can't read none.html"),
    ("[proxy]\nbuffer_directory = {dir}/text\n", 6, "text is not a directory that this user can write to"),
    ("[log]\naccess = {dir}/text/access.log\n", 6, "text is not a directory"),
    ("[log]\nerror = {dir}/sites\n", 6, "sites is a directory"),
    ("[master]\npid_file = {dir}/text/pid\n", 6, "text is not a directory"),
    ("[database]\nshared_memory = {dir}/text\n", 6, "text is not a directory"),
    ("[database]\nurl = mysql://x/y\n", 6, "is neither sqlite:///... nor postgresql://..."),
    ("[database]\nurl = postgresql://host\n", 6, "names no database"),
    ("[database]\nurl = postgresql://a:1,b:x/proxyd\n", 6, "x is no port"),
    ("[database]\nurl = postgresql://a:secret@b/proxyd?nosuch=1\n", 6, "'postgresql://a:***@b/proxyd?nosuch=1' is not a url"),
    ("[database]\nurl = sqlite://p.db\n", 6, "names no file"),
    ("[database]\nurl = sqlite:///{dir}/text/p.db\n", 6, "text is not a directory"),
    ("[alerts]\nwebhook = hooks.example/x\n", 6, "not an http:// or https:// url"),
    ("[sites]\ndirectory = {dir}/none\n", 6, "none does not exist"),
    ("[sites]\ndirectory = {dir}/text\n", 6, "text is not a directory"),
])
def test_a_wrong_setting_is_named_with_its_line(tmp_path: Path, content: str, line: int, told: str) -> None:
    (tmp_path / "text").write_text("some text\n")
    (tmp_path / "empty").write_text("")
    (tmp_path / "foreign").write_text("größer\n")
    make_certificate(tmp_path / "good.pem")
    make_certificate(tmp_path / "again.pem")
    make_certificate(tmp_path / "encrypted.pem", passphrase=b"secret")
    make_certificate(tmp_path / "keyless.pem", key=False)
    make_certificate(tmp_path / "otherkey.pem", other_key=True)
    make_certificate(tmp_path / "ended.pem", days=-1)
    problems = found(tmp_path, content.format(dir=tmp_path))
    assert len(problems) == 1, problems
    section = content.rpartition("\n[")[2].partition("]")[0].removeprefix("[")
    assert problems[0].startswith(f"proxyd.ini:{line}: [{section}] ")
    assert told in problems[0]


def test_redis_is_a_problem_only_without_its_package(tmp_path: Path) -> None:
    missing = importlib.util.find_spec("redis") is None
    assert len(found(tmp_path, "[ratelimit]\nstorage = redis://127.0.0.1:6379/0\n")) == missing


def test_a_setting_from_the_environment_is_named_by_its_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYD_MAINTENANCE_PAGE", "/none.html")
    problems = found(tmp_path, "", PROXYD_MAINTENANCE_PAGE="/none.html")
    assert problems == ["environment PROXYD_MAINTENANCE_PAGE: [maintenance] page: can't read /none.html: No such file or directory"]


def test_a_wrong_token_is_named_with_the_line_of_the_tokens_file(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("[token ci]\nhash = plain\n")
    problems = found(tmp_path, f"[registry]\ntokens_file = {tmp_path}/tokens\n")
    assert problems == ["tokens:2: hash: not sha256: and 64 hexadecimal digits (make one with: proxyd token NAME)"]


def test_a_token_that_names_no_services_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"[token ci]\nhash = {new_token()[1]}\ndomains = b.test\n")
    assert found(tmp_path, f"[registry]\ntokens_file = {tmp_path}/tokens\n") == [
        "tokens:1: [token ci] names no services, so it may register none (services = ci allows that one, services = * any)"]


def test_a_misspelt_variable_is_named_and_one_of_somebody_else_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PROXYD_PROXI_BIND", "0.0.0.0:80")
    monkeypatch.setenv("PROXYD_PORT_8000_TCP_ADDR", "10.0.0.1")
    assert found(tmp_path) == ["environment PROXYD_PROXI_BIND: no such setting (did you mean PROXYD_PROXY_BIND?)"]


def test_a_trusted_front_that_ends_tls_makes_redirect_and_hsts_sound(tmp_path: Path) -> None:
    assert found(tmp_path, "[proxy]\nredirect_https = yes\nhsts = 1h\ntrusted_proxies = 10.0.0.1\n") == []


def test_sections_without_a_key_are_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text("[token ci]\n\n[token cd]\nservices = x\n")
    configuration(tmp_path)
    (tmp_path / "sites" / "a.ini").write_text(SITE.format(service="a", path="/") + "\n[route more]\n")
    assert found(tmp_path, f"[registry]\ntokens_file = {tmp_path}/tokens\n") == [
        "tokens:1: [token ci] has no hash", "tokens:3: [token cd] has no hash",
        "sites/a.ini:9: [route more] needs domains", "sites/a.ini:9: [route more] needs backends"]


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    configuration(tmp_path)
    (tmp_path / "sites" / "a.ini").write_text("\ufeff" + SITE.format(service="a", path="/"))
    assert found(tmp_path) == []


@pytest.mark.parametrize(("line", "reason"), [
    ("backends = http://169.254.169.254", "169.254.169.254 is in 169.254.0.0/16, which [registry] deny_targets names"),
    ("backends = http://localhost:8282", "127.0.0.1 port 8282 is proxyd's own admin HTTP"),
    ("backends = http://10.0.0.1\n[options]\nhealth_check_path = tcp://127.0.0.1:8181", "127.0.0.1 port 8181 is proxyd's own registry")])
def test_a_site_may_not_point_at_what_is_denied(tmp_path: Path, line: str, reason: str) -> None:
    configuration(tmp_path)
    (tmp_path / "sites" / "a.ini").write_text(f"[route main]\ndomains = a.test\n{line}\n")
    assert reason in found(tmp_path)[0]


def test_a_wrong_line_of_a_site_file_is_named(tmp_path: Path) -> None:
    configuration(tmp_path)
    (tmp_path / "sites" / "a.ini").write_text("[route main]\ndomain = a.test\nbackends = http://10.0.0.1:80\n")
    problems = found(tmp_path)
    assert problems[0].startswith('sites/a.ini:2: unknown key "domain"')


def test_options_that_do_not_fit_together_are_named(tmp_path: Path) -> None:
    configuration(tmp_path)
    (tmp_path / "sites" / "a.ini").write_text(SITE.format(service="a", path="/") + "[options]\nslow_warning = 5s\nslow_critical = 1s\n")
    assert found(tmp_path) == ["sites/a.ini:5: [route main] slow_critical (1s) is below slow_warning (5s)"]


def test_two_services_may_share_a_place_under_other_conditions(tmp_path: Path) -> None:
    configuration(tmp_path)
    for name, asked in (("a", ""), ("b", "X-Canary"), ("c", "x-canary: *")):
        (tmp_path / "sites" / f"{name}.ini").write_text(SITE.format(service=name, path="/x") + f"[options]\nmatch_header = {asked}\n")
    assert found(tmp_path) == ["sites/c.ini:5: [route main] a.test/x (header x-canary) with priority 0 belongs to service b "
                               "(sites/b.ini:5); give one another domain, path or priority"]


def test_conditions_are_no_defaults(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="tells one route from another"):
        found(tmp_path, "[defaults.options]\nmatch_method = GET\n")


def test_two_services_that_claim_one_place_are_named_with_both_lines(tmp_path: Path) -> None:
    configuration(tmp_path)
    for name, path in (("a", "/x"), ("b", "/x"), ("c", "/y")):
        (tmp_path / "sites" / f"{name}.ini").write_text(SITE.format(service=name, path=path))
    assert found(tmp_path) == ["sites/b.ini:5: [route main] a.test/x with priority 0 belongs to service a (sites/a.ini:5); "
                               "give one another domain, path or priority"]


@pytest.mark.parametrize("change", ["service = b:service = a", "priority", "disabled"])
def test_one_service_or_another_priority_or_a_disabled_file_is_no_conflict(tmp_path: Path, change: str) -> None:
    configuration(tmp_path)
    texts = {"a": SITE.format(service="a", path="/"), "b": SITE.format(service="b", path="/")}
    if change == "priority":
        texts["b"] += "priority = 5\n"
    elif change == "disabled":
        texts["b"] = texts["b"].replace("[site]", "[site]\nenabled = no")
    else:
        before, _, after = change.partition(":")
        texts["b"] = texts["b"].replace(before, after)
    for name, content in texts.items():
        (tmp_path / "sites" / f"{name}.ini").write_text(content)
    assert found(tmp_path) == []


def test_the_command_prints_problems_and_exits_with_2(tmp_path: Path) -> None:
    file = configuration(tmp_path, "[alerts]\nwebhook = nothing\n")
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROXYD_")}
    done = subprocess.run([sys.executable, "-m", "proxyd", "check", "-c", str(file)], env=environment, capture_output=True, text=True,
                          timeout=30)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [f"{file}:6: [alerts] webhook: not an http:// or https:// url", "1 problem found"]
