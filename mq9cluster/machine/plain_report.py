"""REPORTs by name, as nearly all commands of a quiet cluster are, noted from their very bytes.

Does what `registry.report` does for them, which stays the rule: the state is the same either way
(tests/property/test_plain_report.py). What depends on the ttl alone is made once for all in a row,
and the agent's own row is written later (`unwritten`). Called by `apply`.
"""

from collections.abc import Sequence

from mq9cluster.domain.address import account_and_name
from mq9cluster.domain.command import Command
from mq9cluster.domain.errors import AgentNotFound
from mq9cluster.domain.outcome import AgentsReported, Outcome, refused
from mq9cluster.domain.ports import Family
from mq9cluster.domain.registry import AgentsSeen
from mq9cluster.machine.codec import REPORT_KIND
from mq9cluster.machine.workspace import Workspace

_Expiry = tuple[int, AgentsReported, list[tuple[str, str]]]


def note_reports(
    ws: Workspace, commands: Sequence[Command | bytes], first: int, outcomes: list[Outcome]
) -> int:
    """Note or refuse the REPORTs by name that stand in a row from `first` on, and add what each
    came to; where the row ends.
    """
    now_ms = ws.now_ms
    lately = ws.heard_lately
    look_up = lately.get
    rows = ws.writes.rows[Family.AGENTS]
    index, mark = ws.index, ws.unwritten.mark
    add = outcomes.append
    by_ttl: dict[int, _Expiry] = {}
    for at in range(first, len(commands)):
        data = commands[at]
        if type(data) is not bytes or data[0] != REPORT_KIND:
            return at
        end = 3 + (data[1] << 8 | data[2])
        ref = data[3:end]
        heard = look_up(ref)
        if heard is None and (heard := ws.heard(ref)):
            lately[ref] = heard
        if heard is None or 0 < heard.expires_ms <= now_ms:
            add(refused(AgentNotFound(account_and_name(ref)[1])))
            continue
        ttl_s = heard.ttl_s
        expiry = by_ttl.get(ttl_s)
        if expiry is None:
            expiry = by_ttl[ttl_s] = _expiry(ws, ttl_s)
        expires_ms, outcome, seen = expiry
        heard.seen_ms = now_ms
        heard.expires_ms = expires_ms
        if end < len(data):
            heard.report_info = data[end:]
        if not heard.old_since:
            if heard.index == index:  # its row is of this very entry: `recall` would pass over us
                rows[heard.key] = heard.row()
            else:
                mark(heard)
        heard.index = index
        seen.append(heard.who)
        add(outcome)
    return len(commands)


def _expiry(ws: Workspace, ttl_s: int) -> _Expiry:
    """When who reports now expires, in ms; what it is told; and where followers hear of it."""
    expires_ms = ws.now_ms + ttl_s * 1000 if ttl_s else 0
    seen = AgentsSeen(expires_ms, [])
    ws.agents.append(seen)
    return expires_ms, AgentsReported(1, expires_ms // 1000), seen.agents
