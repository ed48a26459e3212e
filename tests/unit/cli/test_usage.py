"""Wrong use and wrong settings: one line on stderr, exit code 2."""

import subprocess
import sys

import pytest

from mq9cluster.cli import run


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["serve", "--shards", "0"], "--shards: '0' is no whole number from 1 to 1024"),
        (["serve", "--listen", "x"], "--listen: 'x' is not HOST:PORT"),
        (
            ["serve", "--data-dir", "/dev/null/x"],
            "--data-dir: cannot make /dev/null/x: Not a directory",
        ),
        (
            ["serve", "--config", "/missing"],
            "--config: cannot read /missing: No such file or directory",
        ),
        (["serve", "--wat"], "No such option '--wat'."),
        (["serve", "extra"], "Got unexpected extra argument (extra)"),
        (["fly"], "No such command 'fly'."),
        (["dev", "--port", "65536"], "--port: '65536' is no whole number from 1 to 65535"),
        (["status", "--http", "x"], "--http: 'x' is not HOST:PORT"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(arguments, line, capsys, monkeypatch):
    monkeypatch.setattr("os.environ", {})
    assert run(arguments) == 2
    assert capsys.readouterr() == ("", f"mq9cluster: {line}\n")


def test_a_variable_is_heeded_and_named(capsys, monkeypatch):
    monkeypatch.setenv("MQ9_PORT", "none")
    assert run(["dev"]) == 2
    assert (
        capsys.readouterr().err
        == "mq9cluster: MQ9_PORT: 'none' is no whole number from 1 to 65535\n"
    )


def test_no_arguments_show_the_help(capsys):
    assert run([]) == 2
    assert "serve" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "-h"], ["dev", "-h"], ["--version"]])
def test_help_and_version_exit_with_0(arguments, capsys):
    assert run(arguments) == 0
    assert capsys.readouterr().err == ""


def test_the_module_is_the_program():
    done = subprocess.run(
        [sys.executable, "-m", "mq9cluster", "serve", "--shards", "x"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "mq9cluster: --shards: 'x' is no whole number from 1 to 1024\n"
