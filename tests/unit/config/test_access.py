"""Users and accounts in the file: what they mean, and what is said of wrong ones."""

from pathlib import Path

import pytest

from mq9cluster.config import node_config
from mq9cluster.config_values import ConfigError
from mq9cluster.domain.access import Permissions, Responses, Rule, SubjectRules, UseLimits, User
from mq9cluster.domain.nkeys import make_user, parse_public
from mq9cluster.domain.passwords import hashed

KEY = make_user()


@pytest.fixture
def read(tmp_path):
    """The Access of a file with this text."""
    file = tmp_path / "mq9.toml"

    def read(text: str):
        file.write_text(text)
        return node_config({}, {}, file).access

    return read


@pytest.fixture
def told(tmp_path, read):
    """What is said of a file with this text, without its name."""

    def told(text: str) -> str:
        with pytest.raises(ConfigError) as error:
            read(text)
        assert "\n" not in str(error.value)
        return str(error.value).removeprefix(f"{tmp_path / 'mq9.toml'}: ")

    return told


def rules(*subjects: str) -> tuple[Rule, ...]:
    return tuple(Rule(subject.encode()) for subject in subjects)


def test_without_users_everybody_may_connect(read):
    assert read("shards = 4").open


def test_users_stand_in_the_global_account_or_in_their_own(read):
    access = read(f"""
no_auth_user = "ann"
[[users]]
user = "ann"
password = "pw"
max_connections = 3
[[accounts]]
name = "A"
max_connections = 100
max_subscriptions = 1000
[[accounts.users]]
nkey = "{KEY.public}"
max_subscriptions = 7
""")
    assert access.users == {
        "ann": User("ann", "$G", "pw", limits=UseLimits(3)),
        KEY.public: User(KEY.public, "A", nkey=parse_public(KEY.public), limits=UseLimits(0, 7)),
    }
    assert (access.accounts, access.no_auth_user) == ({"A": UseLimits(100, 1000)}, "ann")


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("{}", Permissions()),
        ('{ publish = "a" }', Permissions(SubjectRules(rules("a")))),
        ('{ publish = ["a", "b.>"] }', Permissions(SubjectRules(rules("a", "b.>")))),
        ("{ publish = [] }", Permissions(SubjectRules(()))),
        ("{ publish = { allow = [] } }", Permissions(SubjectRules(()))),
        ('{ publish = { deny = "a.*" } }', Permissions(SubjectRules(None, rules("a.*")))),
        (
            '{ subscribe = { allow = "a q", deny = ["b"] } }',
            Permissions(subscribe=SubjectRules((Rule(b"a", b"q"),), rules("b"))),
        ),
        ("{ allow_responses = true }", Permissions(SubjectRules(()), responses=Responses())),
        ("{ allow_responses = false }", Permissions()),
        (
            '{ publish = "a", allow_responses = { max = 0, expires = "500ms" } }',
            Permissions(SubjectRules(rules("a")), responses=Responses(0, 0.5)),
        ),
        (
            '{ publish = { deny = "a" }, allow_responses = { expires = 30 } }',
            Permissions(SubjectRules((), rules("a")), responses=Responses(1, 30.0)),
        ),
    ],
)
def test_permissions_mean_what_they_mean_to_nats(read, written, meant):
    access = read(f'[[users]]\nuser = "u"\npassword = "p"\npermissions = {written}')
    assert access.users["u"].permissions == meant


def test_default_permissions_are_those_of_users_without_their_own(read):
    access = read("""
[authorization.default_permissions]
publish = "d"
[[users]]
user = "a"
password = "p"
[[users]]
user = "b"
password = "p"
permissions = {}
[[accounts]]
name = "A"
[accounts.default_permissions]
publish = "e"
[[accounts.users]]
user = "c"
password = "p"
""")
    first = {name: user.permissions.publish.allow for name, user in access.users.items()}
    assert first == {"a": rules("d"), "b": None, "c": rules("e")}


USER = '[[users]]\nuser = "u"\n'
WITH = USER + 'password = "p"\n'


WRONG = [
        ("users = 3", "users: must be written as [[users]]"),
        ("[users]\nuser = 'u'", "users: must be written as [[users]]"),
        ("[[users]]\n", "users[0]: needs either user or nkey"),
        (WITH + f'nkey = "{KEY.public}"', "users[0]: needs either user or nkey"),
        (USER, "users[0]: user 'u' needs a password"),
        (USER + 'password = ""', "users[0]: user 'u' needs a password"),
        (USER + "password = 5", "users[0].password: must be text"),
        (USER + 'pass = "hush"', "users[0]: unknown key pass"),
        (WITH + WITH, "users[1]: user 'u' is there twice"),
        (
            WITH + '[[accounts]]\nname = "A"\n[[accounts.users]]\nuser = "u"\npassword = "p"',
            "accounts[0].users[0]: user 'u' is there twice",
        ),
        ('[[users]]\nnkey = "UABC"', "users[0].nkey: must have 56 characters"),
        (
            f'[[users]]\nnkey = "{KEY.public[:-1]}{"A" if KEY.public[-1] != "A" else "B"}"',
            "users[0].nkey: no public key of a user, or mistyped",
        ),
        (
            f'[[users]]\nnkey = "{KEY.public}"\npassword = "p"',
            "users[0]: a user with an nkey has no password",
        ),
        (USER + 'password = "$2a$11$hush"', "users[0].password: no whole bcrypt hash"),
        (USER + 'password = "$argon2id$hush"', "users[0].password: no whole argon2 hash"),
        (
            USER + f'password = "{hashed("p", "argon2").replace("m=19456", "m=2097152")}"',
            "users[0].password: an argon2 hash of more than 1048576 KiB",
        ),
        (WITH + "max_connections = -1", "users[0].max_connections: must be a whole number from"),
        (WITH + "max_connections = true", "users[0].max_connections: must be a whole number"),
        (WITH + 'permissions = "all"', "users[0].permissions: must be a table"),
        (WITH + "permissions = { pub = 1 }", "users[0].permissions: unknown key pub"),
        (
            WITH + "permissions = { publish = [1] }",
            "users[0].permissions.publish: must be a subject or a list of them",
        ),
        (
            WITH + 'permissions = { publish = "a b" }',
            "users[0].permissions.publish: 'a b' is no subject",
        ),
        (
            WITH + 'permissions = { subscribe = { deny = ["a..b"] } }',
            "users[0].permissions.subscribe.deny: 'a..b' is no subject",
        ),
        (
            WITH + 'permissions = { subscribe = "a.>.b" }',
            "users[0].permissions.subscribe: 'a.>.b' is no subject",
        ),
        (
            WITH + 'permissions = { allow_responses = { expires = "soon" } }',
            "users[0].permissions.allow_responses.expires: must be seconds, or a time like",
        ),
        ('[[accounts]]\nname = "$G"', "accounts[0].name: '$G' is no account name"),
        ('[[accounts]]\nname = "a b"', "accounts[0].name: 'a b' is no account name"),
        ('[[accounts]]\nname = "A"\n' * 2, "accounts[1].name: account A is there twice"),
        ('[[accounts]]\nname = "A"\nlimit = 1', "accounts[0]: unknown key limit"),
        ('[authorization]\ntoken = "hush"\n' + WITH, "authorization.token: there cannot be"),
        ('[authorization]\nuser = "u"', "authorization: user 'u' needs a password"),
        ("[authorization]\ntimeout = 3", "authorization: unknown key timeout"),
        ('no_auth_user = "zed"\n' + WITH, "no_auth_user: there is no user 'zed'"),
        ('users = [{ user = "u", password = "hush\\u0000" }]\nzig = 1', "unknown key zig"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "why"), WRONG, ids=range(len(WRONG)))  # keys are random
def test_what_is_wrong_is_told_without_secrets(told, text, why):
    said = told(text)
    assert said.startswith(why)
    assert "hush" not in said


def test_a_list_of_subjects_has_a_limit(read, told):
    def users(count: int) -> str:
        return WITH + f"permissions = {{ publish = {['a'] * count} }}"

    assert len(read(users(1_000)).users["u"].permissions.publish.allow) == 1_000
    assert told(users(1_001)).endswith("1001 subjects, at most 1000 are possible")


def test_secrets_are_not_in_the_configurations_repr(tmp_path):
    file = tmp_path / "mq9.toml"
    file.write_text(USER + 'password = "hush"\n')
    assert "hush" not in repr(node_config({}, {}, file))
    file.write_text('[authorization]\ntoken = "hush"\n')
    assert "hush" not in repr(node_config({}, {}, file))


def test_the_example_of_the_documentation_is_taken(read):
    page = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
    start = page.index("    no_auth_user =")
    example = page[start : page.index("\n`[authorization]`", start)]
    for shown, whole in (
        ("$2b$11$…", hashed("p", "bcrypt", 4)),
        ("$argon2id$…", hashed("p", "argon2")),
        ("UD…", KEY.public),
    ):
        assert shown in example
        example = example.replace(shown, whole)
    access = read("\n".join(line[4:] for line in example.splitlines()))
    assert list(access.users) == ["guest", "planner", KEY.public]
    assert access.accounts == {"ACME": UseLimits(500, 10_000)}
    sends = access.users[KEY.public].permissions
    assert sends.subscribe.allow == (Rule(b"_INBOX.>"), Rule(b"jobs.*", b"workers"))
