"""What makes a node's calls for time and to its disk misbehave: a small C library loaded into it.

Owns building it and the file through which a running node is told. Needs a C compiler; no root.
"""

import errno
import mmap
import struct
import subprocess
import time
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).with_suffix(".c")
_FIELDS: Final = ("wall_offset_ns", "sync_wait_us", "stalled", "write_errno", "sync_errno")
_DRIFT_USED: Final = len(_FIELDS)
_DRIFTS: Final = _DRIFT_USED + 1
_SLOTS: Final = _DRIFTS + 6
IO_ERROR: Final = errno.EIO
NO_SPACE: Final = errno.ENOSPC


def build(folder: Path) -> Path:
    """The library, compiled into `folder`."""
    library = folder / "shim.so"
    command = ("cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE))
    subprocess.run([*command, "-ldl", "-lpthread"], check=True, capture_output=True)
    return library


class Shim:
    """The word to one node. `environment` is what it has to be started with."""

    def __init__(self, library: Path, told: Path, data: Path) -> None:
        told.write_bytes(bytes(8 * _SLOTS))
        with told.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 8 * _SLOTS)
        self._gained_ns = 0
        self._rate_ppm = 0
        self._from_ns = 0
        self.environment = {
            "LD_PRELOAD": str(library),
            "CHAOS_SHIM_FILE": str(told),
            "CHAOS_SHIM_FOLDER": str(data),
        }

    def _set(self, slot: int, value: int) -> None:
        struct.pack_into("q", self._map, 8 * slot, value)

    def tell(self, **fields: int) -> None:
        """Set fields of the library's by name; the others stay."""
        for name, value in fields.items():
            self._set(_FIELDS.index(name), value)

    def drift(self, rate: float) -> None:
        """Its wall clock runs `rate` times as fast from now on."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._gained_ns += (now - self._from_ns) * self._rate_ppm // 1_000_000
        self._rate_ppm = round((rate - 1) * 1_000_000)
        self._from_ns = now
        used = struct.unpack_from("q", self._map, 8 * _DRIFT_USED)[0]
        other = 1 - used
        for number, value in enumerate((self._rate_ppm, self._from_ns, self._gained_ns)):
            self._set(_DRIFTS + 3 * other + number, value)
        self._set(_DRIFT_USED, other)

    def heal(self) -> None:
        """All is well; its wall clock is right again."""
        self.tell(sync_wait_us=0, stalled=0, write_errno=0, sync_errno=0)
        if self._rate_ppm:
            self.drift(1.0)
        self.tell(wall_offset_ns=-self._gained_ns)

    def close(self) -> None:
        """Let go of the file."""
        self._map.close()
