"""The --peer-tls settings."""

from pathlib import Path

import pytest

from mq9cluster.config import PeerTlsFiles, node_config
from mq9cluster.config_values import ConfigError

PEM = Path(__file__).parent.parent / "peers" / "tls"
GOOD = {
    "peer_tls_cert": str(PEM / "node.pem"),
    "peer_tls_key": str(PEM / "node.key"),
    "peer_tls_ca": str(PEM / "authority.pem"),
}


def told(**changes):
    flags = {key: value and str(value) for key, value in (GOOD | changes).items()}
    with pytest.raises(ConfigError) as error:
        node_config(flags, {}, None)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_them_there_is_no_tls():
    assert node_config({}, {}, None).peer_tls is None


def test_what_the_files_hold_is_the_setting_and_the_key_is_never_shown(tmp_path):
    environment = {"MQ9_" + key.upper(): value for key, value in GOOD.items()}
    file = tmp_path / "mq9.toml"
    file.write_text("".join(f'{key} = "{value}"\n' for key, value in GOOD.items()))
    by_flag, by_variable, by_file = (
        node_config(GOOD, {}, None),
        node_config({}, environment, None),
        node_config({}, {}, file),
    )
    assert by_flag.peer_tls == PeerTlsFiles(*(Path(path).read_bytes() for path in GOOD.values()))
    assert by_flag == by_variable == by_file
    assert "PRIVATE KEY" not in repr(by_flag)


@pytest.mark.parametrize("missing", GOOD)
def test_two_of_three_are_refused(missing):
    flag = "--" + missing.replace("_", "-")
    assert told(**{missing: None}) == f"{flag}: the three --peer-tls settings go together"


@pytest.mark.parametrize("missing", GOOD)
def test_a_file_that_cannot_be_read_is_told(missing, tmp_path):
    flag, path = "--" + missing.replace("_", "-"), tmp_path / "none"
    assert told(**{missing: path}) == f"{flag}: cannot read {path}: No such file or directory"


def test_a_key_of_another_certificate_is_refused():
    why = "--peer-tls-cert, --peer-tls-key: no certificate with its key, unencrypted"
    assert told(peer_tls_key=PEM / "stranger.key").startswith(why)


def test_files_that_are_no_pem_are_refused(tmp_path):
    path = tmp_path / "x.pem"
    path.write_text("hello\n")
    for key in GOOD:
        assert told(**{key: path}).startswith("--peer-tls-")
