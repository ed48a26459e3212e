"""Failpoints: named steps at which a test may have a process die, or stand still.

`@failpoint("log.sync")` on a function names its beginning, `log.sync.before`, and its end,
`log.sync.after`. Until something arms them a decorated function *is* the function that was written:
the decorator only notes where it stands, so a normal run pays nothing, not even a test of a flag.
`arm` puts a wrapper in the place of each noted function, and `disarm` puts it back.

The simulator arms them with an action of its own (tests/simulation); a real process with what
`MQ9_FAILPOINTS` says (cluster/failing.py). Which steps there are: docs/operations.md.
"""

import sys
from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Final, NamedTuple, TypeVar

F = TypeVar("F", bound=Callable[..., Any])
Hit = Callable[[str], None]
"""Called with the name of every point that is passed; may raise, or never return."""


class Site(NamedTuple):
    """A decorated function, and the name of its step."""

    step: str
    function: Callable[..., Any]


_SITES: Final[list[Site]] = []


def failpoint(step: str) -> Callable[[F], F]:
    """Name the beginning and the end of a method `step`.before and `step`.after."""

    def note(function: F) -> F:
        _SITES.append(Site(step, function))
        return function

    return note


def points() -> list[str]:
    """The names of all points in the modules that were imported."""
    steps = sorted({site.step for site in _SITES})
    return [f"{step}.{side}" for step in steps for side in ("before", "after")]


def arm(hit: Hit) -> None:
    """Have `hit` called at every point from now on.

    Reaches what is looked up in its class later; so arm before anything is built.
    """
    for step, function in _SITES:
        _replace(function, _wrapped(step, function, hit))


def disarm() -> None:
    """Put back what was written."""
    for _, function in _SITES:
        _replace(function, function)


def _replace(function: Callable[..., Any], by: Callable[..., Any]) -> None:
    *path, name = function.__qualname__.split(".")
    owner: Any = sys.modules[function.__module__]
    for part in path:
        owner = getattr(owner, part)
    setattr(owner, name, by)


def _wrapped(step: str, function: Callable[..., Any], hit: Hit) -> Callable[..., Any]:
    before, after = f"{step}.before", f"{step}.after"

    if iscoroutinefunction(function):

        @wraps(function)
        async def passes_through(*args: Any, **given: Any) -> Any:
            hit(before)
            result = await function(*args, **given)
            hit(after)
            return result

        return passes_through

    @wraps(function)
    def passes(*args: Any, **given: Any) -> Any:
        hit(before)
        result = function(*args, **given)
        hit(after)
        return result

    return passes
