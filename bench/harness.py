"""What measurements have around them: a folder of their own, a word about the machine, an end that
leaves nothing behind, also when interrupted; and two checkouts side by side.
"""

import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import TypeVar

from rich.console import Console

from bench import report
from bench.loadgen import BUILD_DIR, LoadFailed
from bench.servers import Fleet, ServerFailed, mq9_fleet

HERE = Path(__file__).resolve().parent.parent
WIDTH = 140  # of tables, also where they are written to a file

Side = TypeVar("Side")


def measure(
    name: str,
    work: Callable[[Path, Console], int],
    *,
    below: Path = BUILD_DIR,
    stderr: bool = False,
) -> int:
    """Run `work` with a folder for its data; its exit code, 1 if it failed, 130 if interrupted."""
    console = Console(highlight=False, width=WIDTH, stderr=stderr)
    signal.signal(signal.SIGTERM, _interrupt)
    BUILD_DIR.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="data-", dir=below))
    try:
        console.print(report.circumstances(home).line())
        return work(home, console)
    except (LoadFailed, ServerFailed) as error:
        console.print(f"[red]{name}: {error}")
        return 1
    except KeyboardInterrupt:
        console.print(f"{name}: interrupted; everything started is stopped")
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    """SIGTERM unwinds like Ctrl-C, so that everything started is stopped."""
    raise KeyboardInterrupt


@contextmanager
def checkouts(home: Path, nodes: int, base: Path | None) -> Iterator[dict[str, Fleet]]:
    """Nodes of the checkout `base`, if there is one, and of "this", all running inside.

    All run with this virtual environment, each from its checkout's directory: that is where its
    package is found first.
    """
    trees = {"this": HERE} if base is None else {"base": base.resolve(), "this": HERE}
    with ExitStack() as stack:
        running = {}
        for name, tree in trees.items():
            fleet = mq9_fleet(home / name, nodes)
            servers = tuple(replace(server, cwd=tree) for server in fleet.servers)
            running[name] = stack.enter_context(Fleet(servers).running())
        yield running


def taking_turns(sides: Sequence[Side], turn: int) -> Sequence[Side]:
    """The sides in the order of this turn: who begins alternates, so that noise meets all."""
    return sides if turn % 2 == 0 else sides[::-1]
