"""Brokers deliberately broken in the registry, in core NATS and where they open their data: a part
of `whole_mutants`.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

from mq9cluster.cluster import directory
from mq9cluster.cluster.directory import Directory
from mq9cluster.cluster.finding import Finder
from mq9cluster.cluster.finding_here import Here
from mq9cluster.domain.registry import Change
from mq9cluster.gateway.exchange import Exchange
from mq9cluster.storage import store
from mq9cluster.storage.sentinel import Sentinel

Patch = AbstractContextManager[Any]


def _asks_any_replica() -> Patch:
    """DISCOVER takes whatever replica is there, asked for a stale answer or not."""
    return patch.object(Finder, "_current_places", Finder._any_places)


def _finds_the_expired() -> Patch:
    """DISCOVER compares no times."""
    return patch.object(Here, "_at_its_time", lambda _, question, *__: question._replace(now_ms=0))


def _finds_the_unregistered() -> Patch:
    """Directories do not follow UNREGISTER."""
    return patch.dict(directory._FOLLOW, {Change.GONE: lambda *_: None})  # type: ignore[arg-type]


def _keeps_the_old_directory() -> Patch:
    """Where another state was installed, the directory stays as it was."""
    rebuild = Directory.rebuild

    def once(self: Directory) -> None:
        if not self.ready.is_set():
            rebuild(self)

    return patch.object(Directory, "rebuild", once)


def _serves_groups_everywhere() -> Patch:
    """A queue group is served here, and by another node as well."""
    deliver = Exchange._deliver_to_one

    def and_others(self: Exchange, *args: Any) -> int:
        deliver(self, *args)
        return 0

    return patch.object(Exchange, "_deliver_to_one", and_others)


def _opens_with_writes_missing() -> Patch:
    """A database that holds less than was on disk opens."""
    return patch.object(store, "_check_sequence", lambda *_: None)


def _counts_no_starts() -> Patch:
    """A node takes the number of its run again after a restart."""

    def again(self: Sentinel) -> int:
        return self.identity.incarnation + 1

    return patch.object(Sentinel, "count_start", again)


WIDER_MUTANTS: dict[str, Callable[[], Patch]] = {
    "DISCOVER asks any replica": _asks_any_replica,
    "expired agents are found": _finds_the_expired,
    "unregistered agents are found": _finds_the_unregistered,
    "an installed state leaves the directory as it was": _keeps_the_old_directory,
    "queue groups are served by two nodes": _serves_groups_everywhere,
    "a database opens with writes missing": _opens_with_writes_missing,
    "starts are not counted": _counts_no_starts,
}
