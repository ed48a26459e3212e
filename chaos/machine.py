"""What this machine allows: asked once, and said at the start of every run."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from chaos.cluster.network import Namespaces
from chaos.cluster.power import FragileDisk

NETWORK: Final = "network"  # namespaces and a switch of our own
DISK: Final = "disk"  # a file system that can lose its power, or be filled
SHIM: Final = "shim"  # a C compiler, for the library that makes calls of a node fail
MEMORY: Final = "memory"  # control groups that bound memory

WITHOUT_VARIABLE: Final = "CHAOS_WITHOUT"  # network,disk: play as if the machine had none of these

MEMORY_GROUPS: Final = Path("/sys/fs/cgroup/memory")


@cache
def lacking() -> dict[str, str]:
    """What is not possible here, and why."""
    found = {
        NETWORK: Namespaces.why_not(),
        DISK: _why_no_disk(),
        SHIM: "" if shutil.which("cc") else "no `cc` (Debian: gcc, libc6-dev)",
        MEMORY: _why_no_memory_groups(),
    }
    unwanted = os.environ.get(WITHOUT_VARIABLE, "").split(",")
    found |= {what: f"{WITHOUT_VARIABLE} says so" for what in found if what in unwanted}
    return {what: why for what, why in found.items() if why}


def _why_no_disk() -> str:
    if os.geteuid() != 0:
        return "not root"
    if shutil.which("mkfs.ext4") is None:
        return "no `mkfs.ext4` (Debian: e2fsprogs)"
    with tempfile.TemporaryDirectory(prefix="mq9-try") as folder:
        return "" if FragileDisk.works(Path(folder)) else "no file system can be mounted here"


def _why_no_memory_groups() -> str:
    if not os.access(MEMORY_GROUPS, os.W_OK):
        return f"{MEMORY_GROUPS} cannot be written to"
    return ""
