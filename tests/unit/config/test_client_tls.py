"""TLS for clients: files that go together, and what is said of those that do not."""

import ssl

import pytest

from mq9cluster.config import node_config
from mq9cluster.config_values import ConfigError
from tests.support.certificates import LOCALHOST, Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority):
    issued = authority.issue("server", names=LOCALHOST)
    return {"tls_cert": str(issued.certificate_file), "tls_key": str(issued.key_file)}


def told(flags) -> str:
    with pytest.raises(ConfigError) as error:
        node_config(flags, {}, None)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_certificate_there_is_no_tls():
    assert node_config({}, {}, None).tls is None


def test_a_certificate_and_its_key_are_enough(pair):
    tls = node_config(pair, {}, None).tls
    assert (tls.handshake, tls.verify) == ("upgrade", "no")
    assert tls.context.verify_mode == ssl.CERT_NONE
    assert tls.context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_clients_may_have_to_show_a_certificate(pair, authority, tmp_path):
    flags = {**pair, "tls_ca": str(authority.file), "tls_handshake": "first"}
    tls = node_config({**flags, "tls_verify": "yes"}, {}, None).tls
    assert (tls.handshake, tls.context.verify_mode) == ("first", ssl.CERT_REQUIRED)
    file = tmp_path / "mq9.toml"
    file.write_text('[[users]]\nuser = "CN=ann"\n')  # known by certificate: no password
    config = node_config({**flags, "tls_verify": "map"}, {}, file)
    assert list(config.access.users) == ["CN=ann"]


def test_what_does_not_go_together_is_told(pair, authority, tmp_path):
    ca = str(authority.file)
    other = authority.issue("other")
    nothing = tmp_path / "nothing.pem"
    nothing.write_text("no certificate")
    assert told({"tls_cert": pair["tls_cert"]}) == "--tls-cert, --tls-key: go together"
    assert told({"tls_key": pair["tls_key"]}) == "--tls-cert, --tls-key: go together"
    assert told({"tls_ca": ca}) == "--tls-ca: goes with --tls-cert and --tls-key"
    assert told({"tls_verify": "yes"}) == "--tls-verify: goes with --tls-cert and --tls-key"
    assert told({**pair, "tls_verify": "yes"}).startswith("--tls-verify: needs --tls-ca")
    assert told({**pair, "tls_verify": "maybe"}).startswith("--tls-verify: 'maybe' is none of ")
    assert told({**pair, "tls_handshake": "x"}).startswith("--tls-handshake: 'x' is none of ")
    mixed = {**pair, "tls_key": str(other.key_file)}
    assert told(mixed).startswith("--tls-cert, --tls-key: no certificate with its key")
    missing = {**pair, "tls_cert": str(tmp_path / "missing")}
    assert told(missing).startswith("--tls-cert: cannot read ")
    assert told({**pair, "tls_ca": str(nothing)}).startswith("--tls-ca: holds no certificate")
    mapped = {**pair, "tls_ca": ca, "tls_verify": "map"}
    assert told(mapped) == "--tls-verify: users: --tls-verify map needs some"
