"""What every measurement by hand has around it: a folder of its own, a word about the machine, and
an end that leaves nothing behind, also when interrupted.
"""

import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from bench import report
from bench.loadgen import BUILD_DIR, LoadFailed
from bench.run import interrupt
from bench.servers import ServerFailed


def measure(name: str, work: Callable[[Path, Console], int]) -> int:
    """Run `work` with a folder for its data; its exit code, 1 if it failed, 130 if interrupted."""
    console = Console(highlight=False)
    signal.signal(signal.SIGTERM, interrupt)
    BUILD_DIR.mkdir(exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="data-", dir=BUILD_DIR))
    try:
        console.print(report.circumstances(home).line())
        return work(home, console)
    except (LoadFailed, ServerFailed) as error:
        console.print(f"[red]{name}: {error}")
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
