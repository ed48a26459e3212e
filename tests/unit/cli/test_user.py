"""`mq9cluster user`: what it prints is what the configuration takes, and secrets stay apart."""

import io
import tomllib

import nkeys
import pytest

from mq9cluster.cli import run
from mq9cluster.config_access import read_access
from mq9cluster.domain.passwords import matches


@pytest.fixture
def make(capsys, monkeypatch):
    """`make(["ann"], "pw\\n")` → (exit code, the users of what it printed, stderr)."""

    def make(arguments: list[str], stdin: str = ""):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        code = run(["user", *arguments])
        said = capsys.readouterr()
        access = read_access(tomllib.loads(said.out), by_certificate=False)
        return code, list(access.users.values()), said.err

    return make


@pytest.mark.parametrize("kind", ["argon2", "bcrypt"])
@pytest.mark.parametrize("name", ["ann", 'a "quoted" \\ näme', "CN=bob,O=X 😀"])
def test_a_password_from_stdin_is_hashed_for_the_file(make, kind, name):
    code, (user,), told = make([name, "--hash", kind], "s3cret pw\n")
    assert (code, user.name, told) == (0, name, "")
    assert matches(user.password, "s3cret pw")
    assert not matches(user.password, "s3cret pw\n")
    assert "s3cret" not in user.password


def test_a_generated_password_is_told_apart_from_the_table(make):
    code, (user,), told = make(["ann", "--generate"])
    secret = told.strip().rpartition(" ")[2]
    assert (code, len(secret)) == (0, 32)
    assert matches(user.password, secret)


def test_an_nkey_is_one_that_others_can_sign_with(make):
    code, (user,), told = make(["--nkey"])
    seed = told.strip().rpartition(" ")[2]
    assert code == 0
    assert nkeys.from_seed(bytearray(seed.encode())).public_key.decode() == user.name
    assert seed.startswith("SU")


@pytest.mark.parametrize(
    ("arguments", "stdin", "why"),
    [
        ([], "", "either NAME or --nkey"),
        (["ann", "--nkey"], "", "either NAME or --nkey"),
        (["ann"], "", "no password: one line on stdin, or --generate"),
        (["ann"], "\n", "no password: one line on stdin, or --generate"),
        (["a\x07"], "pw\n", "a user's name is printable text"),
        (["a", "--hash", "bcrypt"], "x" * 73, "bcrypt takes passwords of at most 72 bytes"),
    ],
)
def test_wrong_use_is_told_in_one_line(make, arguments, stdin, why):
    assert make(arguments, stdin) == (2, [], f"mq9cluster: {why}\n")
