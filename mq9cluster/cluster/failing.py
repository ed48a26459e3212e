"""What failpoints do in a real process: die there, or stand still, as `MQ9_FAILPOINTS` says.

    MQ9_FAILPOINTS="log.sync.before=crash@3,apply.after=stall(2000)@10"

`crash` is SIGKILL, `stall(MS)` stands still for so many milliseconds; `@N`: when the point is
passed for the Nth time in this process, 1 unless said. For tests only; `cli` calls `arm_from`.
"""

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from mq9cluster.domain import failpoints

VARIABLE: Final = "MQ9_FAILPOINTS"
_ITEM: Final = re.compile(
    r"(?P<point>[a-z_.]+)=(?P<action>crash|stall\((?P<ms>\d{1,6})\))(@(?P<at>[1-9]\d{0,8}))?"
)

Act = Callable[[str, int | None], None]
"""Told of the point that was reached, and of how long to stall; None: to die."""

_log = logging.getLogger(__name__)


class BadFailpoints(Exception):
    """MQ9_FAILPOINTS cannot be read, or names no step there is."""


@dataclass(slots=True)
class _Armed:
    """One point: how often it is still to be passed, and for how long it stalls; None: it kills."""

    left: int
    stall_ms: int | None


def arm_from(environment: Mapping[str, str]) -> None:
    """Arm what the variable names, if it is set. Raises BadFailpoints."""
    text = environment.get(VARIABLE, "")
    if not text:
        return
    failpoints.arm(hitting(text, _act))
    _log.warning("FAILPOINTS ARE ARMED: this process dies or stalls on purpose (%s)", text)


def hitting(text: str, act: Act) -> failpoints.Hit:
    """What is to be called at each point, to do there what `text` says. Raises BadFailpoints."""
    armed = read(text)

    def hit(point: str) -> None:
        for one in armed.get(point, ()):
            one.left -= 1
            if one.left == 0:
                act(point, one.stall_ms)

    return hit


def read(text: str) -> dict[str, list[_Armed]]:
    """What to do at which point. Raises BadFailpoints."""
    known = set(failpoints.points())
    armed: dict[str, list[_Armed]] = {}
    for item in text.split(","):
        match = _ITEM.fullmatch(item.strip())
        if match is None:
            raise BadFailpoints(f"{VARIABLE}: {item!r} is not POINT=crash[@N] or =stall(MS)[@N]")
        if match["point"] not in known:
            raise BadFailpoints(f"{VARIABLE}: there is no point {match['point']}")
        stall_ms = int(match["ms"]) if match["ms"] else None
        armed.setdefault(match["point"], []).append(_Armed(int(match["at"] or 1), stall_ms))
    return armed


def _act(point: str, stall_ms: int | None) -> None:
    if stall_ms is None:
        os.kill(os.getpid(), signal.SIGKILL)
        signal.pause()  # it comes at once, but not before this call returns everywhere
    else:
        _log.warning("stalling", extra={"point": point, "ms": stall_ms})
        time.sleep(stall_ms / 1000)
