"""Files of users: what they may hold, and that hashes are made and verified as the libraries do."""

from __future__ import annotations

import bcrypt
import pytest

from proxyd.config.userfile import make_hash, parse_users, verify

QUICK = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode()


@pytest.mark.parametrize("kind", ["argon2", "bcrypt"])
def test_a_hash_that_is_made_verifies_its_password_alone_and_may_stand_in_a_file(kind: str) -> None:
    made = make_hash("correct hörse", kind)
    assert verify(made, "correct hörse") and not verify(made, "correct horse") and not verify(made, "")
    assert parse_users(f"# staff\n\nann:{made}\r\n") == {"ann": made}


def test_what_htpasswd_writes_is_read() -> None:
    assert verify(parse_users(f"ann:{QUICK.replace('$2b$', '$2y$')}")["ann"], "secret")


@pytest.mark.parametrize(("content", "wrong"), [
    ("ann", "line 1 is not name:hash"), ("\nann:secret", "line 2 has no hash"), (f"an n:{QUICK}", "line 1 is not name:hash"),
    (f"a:{QUICK}\na:{QUICK}", "line 2 has a a second time"), (f"a:{QUICK.replace('$04$', '$31$')}", "a cost that is not"),
    ("a:$argon2id$v=19$m=999999999,t=3,p=4$Y3cYqmFaQSWpfoq4v+fe2Q$nF9kAzEZ3i4vpfffEIs29qI33JINll3ERpK23ZwnKsc", "takes more than"),
    ("a:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=", "has no hash of argon2 or bcrypt")],
    ids=["shape", "hash", "name", "double", "cost", "memory", "kind"])
def test_a_mistake_is_told_with_its_line_and_without_the_hash(content: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=wrong) as told:
        parse_users(content)
    assert "secret" not in str(told.value) and "$" not in str(told.value)


def test_a_password_that_is_cut_by_bcrypt_is_refused_when_it_is_made() -> None:
    with pytest.raises(ValueError, match="72 bytes"):
        make_hash("x" * 73, "bcrypt")
    with pytest.raises(ValueError, match="1 to 1024"):
        make_hash("", "argon2")
