"""Where settings come from, and what happens to wrong ones."""

from dataclasses import astuple
from pathlib import Path

import pytest

from mq9cluster.config import node_config, prepare_directory, resolve
from mq9cluster.config_table import DEV, SERVE, STATUS
from mq9cluster.config_values import Address, ConfigError, PeerAddress


def told(flags=None, environment=None, file=None):
    with pytest.raises(ConfigError) as error:
        node_config(flags or {}, environment or {}, file)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def toml(tmp_path):
    path = tmp_path / "mq9.toml"

    def write(text: str) -> Path:
        path.write_text(text)
        return path

    return write


def test_flags_win_over_environment_over_file_over_default(toml):
    file = toml('name = "file"\nshards = 2\nlame_duck = 3\n')
    environment = {"MQ9_NAME": "environment", "MQ9_SHARDS": "4"}
    config = node_config({"name": "flag", "shards": None}, environment, file)
    assert (config.name, config.shards, config.lame_duck_s, config.listen) == (
        "flag",
        4,
        3,
        Address("0.0.0.0", 4222),
    )


def test_the_defaults_are_those_of_the_protocol():
    config = node_config({}, {}, None)
    assert config.payload_bytes_max == 1024 * 1024
    assert config.duplicate_window_ms == 120_000
    assert config.agent_ttl_s == 300
    assert config.shards == 8
    assert config.peers == ()


def test_an_empty_variable_counts_as_not_set():
    assert node_config({}, {"MQ9_SHARDS": ""}, None).shards == 8


def test_every_setting_has_its_own_flag_variable_and_key_within_its_command():
    for settings in (SERVE, DEV, STATUS):
        assert len({setting.key for setting in settings}) == len(settings)
    assert {setting.variable for setting in SERVE} >= {"MQ9_DATA_DIR", "MQ9_LISTEN", "MQ9_PEERS"}


@pytest.mark.parametrize("setting", SERVE, ids=lambda setting: setting.flag)
def test_every_setting_can_be_given_as_variable_and_in_the_file(setting, toml):
    samples = {"ws-listen": "a:1", "ws-origins": "https://a", "admin-token": "a" * 16}
    value = setting.default or samples.get(setting.flag, "node1=a:1")
    by_variable = resolve((setting,), {}, {setting.variable: value}, None)
    by_file = resolve((setting,), {}, {}, toml(f'{setting.key} = "{value}"\n'))
    assert by_variable == by_file == {setting.key: setting.parse(value)}


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("127.0.0.1:4222", Address("127.0.0.1", 4222)),
        ("broker-0.mq9.svc:0", Address("broker-0.mq9.svc", 0)),
        ("[::1]:65535", Address("::1", 65535)),
    ],
)
def test_an_address_is_host_and_port(raw, address):
    config = node_config({"listen": raw}, {}, None)
    assert config.listen == address
    assert str(config.listen) == raw


@pytest.mark.parametrize(
    "raw", ["", "4222", ":4222", "host:", "host:65536", "host:-1", "host:http", "::1:80", "a b:1"]
)
def test_a_wrong_address_is_refused(raw):
    assert told({"listen": raw}).startswith("--listen: ")


@pytest.mark.parametrize(
    ("flag", "low", "high"),
    [
        ("shards", 1, 1024),
        ("max_payload", 1024, 8 * 1024 * 1024),
        ("duplicate_window", 1, 86_400),
        ("agent_ttl", 0, 315_360_000),
        ("max_connections", 1, 1_000_000),
        ("lame_duck", 0, 3600),
    ],
)
def test_a_number_is_taken_within_its_limits_only(flag, low, high):
    node_config({flag: str(low)}, {}, None)
    node_config({flag: str(high)}, {}, None)
    name = f"--{flag.replace('_', '-')}"
    for wrong in (str(low - 1), str(high + 1), "1.5", "1e3", "", "many", "٣"):
        assert told({flag: wrong}) == f"{name}: {wrong!r} is no whole number from {low} to {high}"


def test_a_wrong_value_is_told_with_the_place_it_came_from(toml):
    assert told({"shards": "x"}).startswith("--shards: ")
    assert told(environment={"MQ9_SHARDS": "x"}).startswith("MQ9_SHARDS: ")
    file = toml("shards = 0\n")
    assert told(file=file).startswith(f"{file}: shards: ")


def test_a_wrong_value_that_is_overruled_does_no_harm(toml):
    config = node_config({"shards": "3"}, {"MQ9_SHARDS": "x"}, toml('shards = "y"\n'))
    assert config.shards == 3


def test_unknown_keys_of_the_file_are_refused(toml):
    file = toml("shard = 3\n")
    assert told(file=file) == f"{file}: unknown key shard"


def test_keys_of_other_commands_are_left_to_them(toml):
    assert node_config({}, {}, toml("nodes = 3\nhttp_port = 9999\n")).name == "node1"


@pytest.mark.parametrize("text", ["shards = true", "shards = 1.5", "shards = [1]", "[shards]"])
def test_values_of_the_wrong_type_are_refused(text, toml):
    assert "shards" in told(file=toml(text))


def test_a_file_that_is_missing_or_no_toml_is_refused(toml, tmp_path):
    missing = tmp_path / "missing.toml"
    assert told(file=missing) == f"--config: cannot read {missing}: No such file or directory"
    assert told(file=toml("shards =")).startswith(f"--config: {toml('shards =')} is not TOML: ")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert told(file=binary).startswith(f"--config: {binary} is not TOML: ")


def test_one_peer_is_this_node_itself():
    config = node_config({"peers": "node1=10.0.0.1:7422"}, {}, None)
    assert config.peers == (PeerAddress("node1", Address("10.0.0.1", 7422)),)


def test_a_list_of_the_file_is_a_list_of_peers(toml):
    config = node_config({}, {}, toml('peers = ["node1=a:7422"]\n'))
    assert config.peers == (PeerAddress("node1", Address("a", 7422)),)


@pytest.mark.parametrize(
    ("peers", "why"),
    [
        ("node1", "'node1' is not NODE=HOST:PORT"),
        ("node1=a", "'a' is not HOST:PORT"),
        ("node1=a:1,node1=b:1", "node node1 is named twice"),
        ("node1=a:1,node2=a:1", "address a:1 is named twice"),
        ("node2=a:1", "this node, node1, is not among them"),
    ],
)
def test_wrong_peers_are_refused(peers, why):
    assert told({"peers": peers}) == f"--peers: {why}"


@pytest.mark.parametrize("name", ["a", "Node-1", "mq9.0_b", "x" * 63])
def test_a_node_name_is_taken(name):
    assert node_config({"name": name}, {}, None).name == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "a b", "a=b", "a,b", "x" * 64, "ä"])
def test_a_wrong_node_name_is_refused(name):
    assert told({"name": name}).startswith("--name: ")


def test_two_listeners_on_one_address_are_refused_unless_the_system_chooses():
    same = {"listen": "127.0.0.1:5000", "http": "127.0.0.1:5000"}
    assert told(same) == "--http: 127.0.0.1:5000 is the address of --listen too"
    same = {"ws_listen": "127.0.0.1:5000", "listen": "127.0.0.1:5000"}
    assert told(same) == "--ws-listen: 127.0.0.1:5000 is the address of --listen too"
    same = {"ws_listen": "127.0.0.1:5000", "http": "127.0.0.1:5000"}
    assert told(same) == "--ws-listen: 127.0.0.1:5000 is the address of --http too"
    free = dict.fromkeys(("listen", "http", "ws_listen"), "127.0.0.1:0")
    node_config(free, {}, None)


@pytest.mark.parametrize(
    ("flag", "low", "high"),
    [
        ("max_subscriptions", 0, 10_000_000),
        ("max_pending", 1_048_576, 4_294_967_296),
        ("write_deadline", 1, 3_600),
        ("max_waiting_fetches", 1, 100_000),
        ("max_request_rate", 0, 10_000_000),
    ],
)
def test_a_limit_of_clients_is_taken_from_its_lowest_to_its_highest(flag, low, high):
    for value in (low, high):
        assert value in astuple(node_config({flag: str(value)}, {}, None).limits)
    for value in (low - 1, high + 1):
        assert told({flag: str(value)}).startswith(f"--{flag.replace('_', '-')}: ")


@pytest.mark.parametrize("token", ["x" * 15, "with a blank in it", "späth" * 5, "x" * 20 + "\n"])
def test_a_weak_admin_token_is_refused_and_not_repeated(token):
    text = told({"admin_token": token})
    assert text.startswith("--admin-token: not at least 16 printable ASCII characters")
    assert token not in text


def test_an_admin_token_is_taken_and_shows_in_no_repr():
    config = node_config({}, {"MQ9_ADMIN_TOKEN": "a-token-of-sixteen"}, None)
    assert config.admin_token == "a-token-of-sixteen"
    assert "sixteen" not in repr(config)


@pytest.mark.parametrize(
    ("raw", "origins"),
    [
        ("", ()),
        (
            "https://App.example, http://localhost:8080",
            ("https://app.example", "http://localhost:8080"),
        ),
    ],
)
def test_origins_are_taken_in_lower_case(raw, origins):
    assert node_config({"ws_origins": raw}, {}, None).ws_origins == origins


@pytest.mark.parametrize("raw", ["app.example", "https://", "ftp://x", "https://x/path", "*"])
def test_a_wrong_origin_is_refused(raw):
    assert told({"ws_origins": raw}).startswith("--ws-origins: ")


def test_a_directory_is_made_for_its_owner_only(tmp_path):
    prepare_directory(tmp_path / "a" / "b", "--data-dir")
    assert (tmp_path / "a" / "b").stat().st_mode & 0o777 == 0o700


def test_a_file_is_no_data_directory(tmp_path):
    path = tmp_path / "file"
    path.touch()
    with pytest.raises(ConfigError, match="is not a directory"):
        prepare_directory(path, "--data-dir")
    with pytest.raises(ConfigError, match="Not a directory"):
        prepare_directory(path / "below", "--data-dir")


def test_a_directory_one_may_not_write_in_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)  # root may always
    with pytest.raises(ConfigError, match=r"--data-dir: cannot write in"):
        prepare_directory(tmp_path, "--data-dir")
