"""The command line: `serve`, `dev`, `status`, `user`.

Owns flags, exit codes and what is printed. Called by __main__; reads the configuration, sets up
logs, then hands over to the node (`serve`), to processes of its own (`dev`, in mq9cluster/dev.py)
or asks one over HTTP (`status`).

Exit codes: 0 done, or stopped as asked; 1 it could not go on (one line says why); 2 wrong use or
settings (one line).
"""

import asyncio
import logging
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import click
import uvloop

from mq9cluster import dev as dev_cluster
from mq9cluster import status as status_table
from mq9cluster import user as new_user
from mq9cluster.admin.logs import logging_to
from mq9cluster.cluster.failing import BadFailpoints, arm_from
from mq9cluster.config import node_config, prepare_directory, resolve
from mq9cluster.config_table import DEV, SERVE, STATUS, Setting
from mq9cluster.config_values import ConfigError
from mq9cluster.domain.passwords import HASHES
from mq9cluster.node import NodeFailed, serve_until_stopped

log = logging.getLogger(__name__)

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

Command = TypeVar("Command", bound=Callable[..., Any])


def run(arguments: Sequence[str]) -> int:
    """Carry out `arguments`; the exit code. What goes wrong is told in one line on stderr."""
    try:
        result = program.main(list(arguments), prog_name="mq9cluster", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        return EXIT_USAGE
    except click.ClickException as error:
        return _complain(error.format_message(), EXIT_USAGE)
    except ConfigError as error:
        return _complain(str(error), EXIT_USAGE)
    except (dev_cluster.DevFailed, status_table.NoAnswer) as error:
        return _complain(str(error), EXIT_FAILED)
    except (click.Abort, KeyboardInterrupt):
        return EXIT_OK
    return result if isinstance(result, int) else EXIT_OK


def _complain(why: str, code: int) -> int:
    click.echo(f"mq9cluster: {' '.join(why.split())}", err=True)
    return code


def _flags(settings: tuple[Setting, ...]) -> Callable[[Command], Command]:
    """Options for `settings`, all optional texts: config reads and checks them."""

    def decorate(command: Command) -> Command:
        for setting in reversed(settings):
            shown = f" [{setting.default}]" if setting.default else ""
            command = click.option(
                f"--{setting.flag}", setting.key, metavar=setting.metavar, help=setting.help + shown
            )(command)
        return command

    return decorate


_config_file = click.option(
    "--config",
    "config_file",
    metavar="FILE",
    envvar="MQ9_CONFIG",
    type=click.Path(path_type=Path),
    help="TOML file with any of these settings, dashes written as underscores",
)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(version("mq9cluster"), message="%(prog)s %(version)s")
def program() -> None:
    """Mailboxes and a registry for AI agents, spoken over the NATS protocol.

    Every setting is also an environment variable (--data-dir is MQ9_DATA_DIR) and a key of the
    file that --config names (data_dir); flags win over environment over file.
    """


@program.command()
@_config_file
@click.option("--stop-with-stdin", is_flag=True, hidden=True, help="stop when stdin is closed")
@_flags(SERVE)
def serve(config_file: Path | None, *, stop_with_stdin: bool, **flags: str | None) -> int:
    """Run one node in the foreground.

    Without --peers it is a cluster of one. SIGHUP takes users, certificates and limits anew.
    SIGTERM or SIGUSR2 hands over what it leads and lets clients leave (--lame-duck), then stops it;
    SIGINT stops it at once.
    """
    read = partial(node_config, flags, os.environ, config_file)
    config = read()
    prepare_directory(config.data_dir, "--data-dir")
    failed = False
    with logging_to(config.log_format, config.log_level, config.name):
        _arm_failpoints()
        try:
            uvloop.run(serve_until_stopped(config, read, stop_with_stdin=stop_with_stdin))
        except NodeFailed as error:
            log.critical("%s", error)
            failed = True
    if failed:
        # At once: an ordinary exit would wait for threads that may hang in a failed disk, and let
        # destructors write to it.
        os._exit(EXIT_FAILED)
    return EXIT_OK


def _arm_failpoints() -> None:
    try:
        arm_from(os.environ)
    except BadFailpoints as error:
        raise ConfigError(str(error)) from error


@program.command()
@_config_file
@_flags(DEV)
def dev(config_file: Path | None, **flags: str | None) -> int:
    """Run a whole cluster on this machine to try things with.

    NATS clients connect to --port, --port + 1, and so on. Without --data-dir everything is gone
    when it stops. Ctrl-C stops all nodes.
    """
    values = resolve(DEV, flags, os.environ, config_file)
    if values["data_dir"]:
        prepare_directory(values["data_dir"], "--data-dir")
    plan = dev_cluster.Plan(
        nodes=values["nodes"],
        port=values["port"],
        http_port=values["http_port"],
        data_dir=values["data_dir"],
        config_file=config_file,
    )
    return asyncio.run(dev_cluster.run(plan))


@program.command()
@_config_file
@_flags(STATUS)
@click.option("--json", "as_json", is_flag=True, help="print what /cluster answers")
@click.option("--watch", is_flag=True, help="look again every second, until Ctrl-C")
def status(config_file: Path | None, *, as_json: bool, watch: bool, **flags: str | None) -> int:
    """Show nodes, shards, leaders, lag, mailboxes and agents."""
    values = resolve(STATUS, flags, os.environ, config_file)
    if watch and as_json:
        raise ConfigError("--watch: shows tables, not --json")
    if watch:
        status_table.watch(values["http"], sys.stdout)
        return EXIT_OK
    answer = status_table.ask(values["http"])
    if as_json:
        click.echo(status_table.as_json(answer))
    else:
        status_table.show(answer, sys.stdout)
    return EXIT_OK


@program.command()
@click.argument("name", required=False)
@click.option("--nkey", "with_nkey", is_flag=True, help="with an nkey instead of a password")
@click.option("--generate", is_flag=True, help="make a password instead of asking for one")
@click.option("--hash", "kind", type=click.Choice(HASHES), default=HASHES[0], show_default=True)
def user(name: str | None, *, with_nkey: bool, generate: bool, kind: str) -> int:
    r"""Make a user for the configuration file.

    Prints the table for the file. What the user keeps, a generated password or the seed of an
    nkey, is printed on stderr, once. The password is asked for, or read from stdin, one line.

    \b
    mq9cluster user ann >> mq9.toml
    mq9cluster user --nkey >> mq9.toml
    """
    if with_nkey == (name is not None):
        raise click.UsageError("either NAME or --nkey")
    try:
        made = (
            new_user.with_nkey()
            if name is None
            else new_user.with_password(name, "" if generate else _asked_password(), kind)
        )
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    click.echo(made.table, nl=False)
    if made.secret:
        click.echo(f"for the user alone, not shown again: {made.secret}", err=True)
    return EXIT_OK


def _asked_password() -> str:
    if sys.stdin.isatty():
        password = str(
            click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        )
    else:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise click.UsageError("no password: one line on stdin, or --generate")
    return password
