"""REPORTs by name, as nearly all commands of a quiet cluster are, noted from their very bytes.

Does what `registry.report` does for them, which stays the rule: the state is the same either way
(tests/property/test_plain_report.py). What depends on the ttl alone is made once for all in an
entry; a heartbeat then costs no object but its row and what those who follow the registry are told.
Called by `apply`.
"""

from mq9cluster.domain.address import account_and_name
from mq9cluster.domain.errors import AgentNotFound
from mq9cluster.domain.outcome import AgentsReported, Outcome, refused
from mq9cluster.domain.ports import Family
from mq9cluster.domain.registry import NO_CODES, AgentChange, Change
from mq9cluster.machine.agent_rows import SEEN, SEEN_VERSION
from mq9cluster.machine.codec import plain_report_info_at
from mq9cluster.machine.workspace import Workspace

# Calls and defaults are what the long way spends its time on.
_made = tuple.__new__
_PACK = SEEN.pack
_SEEN = Change.SEEN


class PlainReports:
    """The REPORTs by name of one parcel."""

    __slots__ = ("_agents", "_expiries", "_lately", "_now_ms", "_rows", "_ws")

    def __init__(self, ws: Workspace) -> None:
        self._ws = ws
        self._now_ms = ws.now_ms
        self._lately = ws.heard_lately
        self._rows = ws.writes.rows[Family.AGENTS]
        self._agents = ws.agents
        self._expiries: dict[int, tuple[int, AgentsReported]] = {}  # by ttl

    def note(self, data: bytes) -> Outcome:
        """Note one, or refuse it."""
        end = plain_report_info_at(data)
        ref = data[3:end]
        heard = self._lately.get(ref) or self._ws.heard(ref)
        now_ms = self._now_ms
        if heard is None or 0 < heard.expires_ms <= now_ms:
            return refused(AgentNotFound(account_and_name(ref)[1]))
        expiry = self._expiries.get(heard.ttl_s)
        if expiry is None:
            expiry = self._expiry(heard.ttl_s)
        heard.seen_ms = now_ms
        heard.expires_ms, outcome = expiry
        if end < len(data):
            heard.report_info = data[end:]
        self._lately[ref] = heard
        self._rows[heard.key] = (
            _PACK(SEEN_VERSION, heard.ttl_s, now_ms, heard.expires_ms, heard.due_ms)
            + heard.report_info
        )
        self._agents.append(
            _made(AgentChange, (heard.account, heard.name, _SEEN, heard.expires_ms, b"", NO_CODES))
        )
        return outcome

    def _expiry(self, ttl_s: int) -> tuple[int, AgentsReported]:
        """When who reports now expires, in ms, and what it is told."""
        expires_ms = self._now_ms + ttl_s * 1000 if ttl_s else 0
        expiry = self._expiries[ttl_s] = (expires_ms, AgentsReported(1, expires_ms // 1000))
        return expiry
