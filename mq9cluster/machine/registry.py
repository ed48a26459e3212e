"""What the agent commands do: REGISTER, UNREGISTER, REPORT, and what embedders bring later.

An agent is two rows, so that a heartbeat writes little: its card, and when it was seen. Readers
compare times, so an agent whose ttl has passed is gone at once; the schedule looks at an agent only
about once in its ttl, finds out by the seen row whether it lives, and sweeps it `AGENT_KEPT_MS`
after it expired. What changed is told to those who follow the registry (`ws.agents`).

Called by apply and due; raises the domain's errors, and then has changed nothing.
"""

from collections.abc import Iterator
from itertools import islice
from typing import Final

from mq9cluster.domain.address import account_and_name, agent_ref, mailbox_ref, slot_of
from mq9cluster.domain.agent import card_digest
from mq9cluster.domain.command import (
    DropEmbedder,
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    SetAgentCode,
    UnregisterAgent,
    UnregisterAgents,
)
from mq9cluster.domain.errors import AgentNotFound, Overloaded
from mq9cluster.domain.limits import AGENT_KEPT_MS, AGENTS_PER_SHARD_MAX, AGENTS_PER_STEP_MAX
from mq9cluster.domain.outcome import AgentRegistered, AgentsReported, AgentsUnregistered, Done
from mq9cluster.domain.ports import Family
from mq9cluster.domain.registry import AgentChange, AgentsSeen, Change
from mq9cluster.machine import keys
from mq9cluster.machine.agent_rows import (
    Card,
    Heard,
    pack_card,
    pack_count,
    unpack_card,
    unpack_count,
)
from mq9cluster.machine.keys import Due
from mq9cluster.machine.workspace import Workspace

DROPPED_ROWS_MAX: Final = 500  # cards looked at per step when an embedder is dropped; about 5 ms
DROPPED_ROW_COST: Final = 4  # in what an entry may spend: a card is rewritten whole

# --- REGISTER and UNREGISTER ---------------------------------------------------------------------


def register(ws: Workspace, command: RegisterAgent) -> AgentRegistered:
    """REGISTER: raises Overloaded."""
    ref = command.agent
    card_key = keys.agent_card(slot_of(ref), ref)
    known = ws.heard(ref)
    # Both rows come and go together: where one is missing the other need not be looked for.
    row = None if known is None else ws.get(Family.AGENTS, card_key)
    old = unpack_card(row) if row else None
    if old is None and ws.shard.agents >= AGENTS_PER_SHARD_MAX:
        raise Overloaded(f"the shard has {AGENTS_PER_SHARD_MAX} agents")
    heard = known or Heard(ref)
    account, name = heard.who
    expires_ms = _heard_of(ws, heard, command.ttl_s)
    card = _merged(ws, old, command)
    if card == old:
        ws.agents.append(AgentsSeen(expires_ms, [heard.who]))
    else:
        ws.put(Family.AGENTS, card_key, pack_card(card))
        _index(ws, account, name, old.address if old else "", card.address)
        ws.shard.agents += old is None
        ws.agents.append(
            AgentChange(account, name, Change.REGISTERED, expires_ms, card.body, card.codes)
        )
    return AgentRegistered(name, expires_ms // 1000)


def _merged(ws: Workspace, old: Card | None, command: RegisterAgent) -> Card:
    """The new card; codes of the very same body stay, also where only others are given."""
    if old is None or (old.body, old.address) != (command.body, command.address):
        return Card(ws.now_ms, command.address, command.body, dict(command.codes))
    return old._replace(codes={**old.codes, **dict(command.codes)})


def _heard_of(ws: Workspace, heard: Heard, ttl_s: int) -> int:
    """Note that an agent registered; what it reported stays, unless it had expired.

    When it expires now, in ms.
    """
    if not heard.lives_at(ws.now_ms):
        heard.report_info = b""
    heard.ttl_s = ttl_s
    heard.seen_ms = ws.now_ms
    heard.expires_ms = ws.now_ms + ttl_s * 1000 if ttl_s else 0
    heard.due_ms = _look_again(ws, heard.ref, heard.due_ms, heard.expires_ms)
    ws.put_heard(heard)
    return heard.expires_ms


def _look_again(ws: Workspace, ref: bytes, due_ms: int, expires_ms: int) -> int:
    """When the schedule will look at an agent that expires then; `due_ms`: when it would now.

    A row that comes too early is left: it moves on when its time has come.
    """
    wanted_ms = expires_ms + AGENT_KEPT_MS if expires_ms else 0
    if wanted_ms and 0 < due_ms <= wanted_ms:
        return due_ms
    if due_ms:
        ws.unschedule(due_ms, Due.AGENT_EXPIRY, ref)
    if wanted_ms:
        ws.schedule(wanted_ms, Due.AGENT_EXPIRY, ref, b"")
    return wanted_ms


def unregister(ws: Workspace, command: UnregisterAgent) -> AgentsUnregistered:
    """UNREGISTER: raises AgentNotFound."""
    _remove(ws, _living(ws, command.agent))
    return AgentsUnregistered(1)


def _living(ws: Workspace, ref: bytes) -> Heard:
    heard = ws.heard(ref)
    if heard is None or not heard.lives_at(ws.now_ms):
        raise AgentNotFound(account_and_name(ref)[1])
    return heard


def _remove(ws: Workspace, heard: Heard) -> None:
    ref, (account, name) = heard.ref, heard.who
    card_key = keys.agent_card(slot_of(ref), ref)
    row = ws.get(Family.AGENTS, card_key)
    if row is not None:
        _index(ws, account, name, unpack_card(row).address, "")
    ws.delete(Family.AGENTS, card_key)
    ws.forget_heard(heard)
    if heard.due_ms:
        ws.unschedule(heard.due_ms, Due.AGENT_EXPIRY, ref)
    ws.shard.agents -= 1
    ws.agents.append(AgentChange(account, name, Change.GONE))


def _index(ws: Workspace, account: str, name: str, old: str, new: str) -> None:
    """An agent's mailbox is another one now; "" for none."""
    if old == new:
        return
    for address, more in ((old, -1), (new, 1)):
        if address:
            agents_of = keys.agents_of(mailbox_ref(account, address))
            ws.reindexed.add(agents_of)
            count = unpack_count(ws.get(Family.AGENTS, agents_of)) + more
            if more > 0:
                ws.put(Family.AGENTS, agents_of + name.encode(), b"")
            else:
                ws.delete(Family.AGENTS, agents_of + name.encode())
            if count:
                ws.put(Family.AGENTS, agents_of, pack_count(count))
            else:
                ws.delete(Family.AGENTS, agents_of)


# --- REPORT --------------------------------------------------------------------------------------


def report(ws: Workspace, command: ReportAgent) -> AgentsReported:
    """REPORT: raises AgentNotFound."""
    ref, report_info = command
    expires_ms = _seen_now(ws, _living(ws, ref), report_info)
    return AgentsReported(1, expires_ms // 1000)


def _seen_now(ws: Workspace, heard: Heard, report_info: bytes) -> int:
    """Note that an agent reported; when it expires now, in ms."""
    heard.report(ws.now_ms, report_info)
    ws.put_heard(heard)
    ws.agents.append(AgentsSeen(heard.expires_ms, [heard.who]))
    return heard.expires_ms


# --- by mailbox ----------------------------------------------------------------------------------


def report_all(ws: Workspace, command: ReportAgents) -> AgentsReported:
    """REPORT of every agent of a mailbox that lives in this shard, a step of it."""
    refs, resume = _refs_of(ws, command.mailbox, command.after)
    living = _all_living(ws, refs)
    expiries = [_seen_now(ws, heard, command.report_info) for heard in living]
    first_ms = min(filter(None, expiries), default=0)
    return AgentsReported(len(expiries), first_ms // 1000, resume)


def unregister_all(ws: Workspace, command: UnregisterAgents) -> AgentsUnregistered:
    """UNREGISTER of every agent of a mailbox that lives in this shard, a step of it."""
    refs, resume = _refs_of(ws, command.mailbox, command.after)
    count = 0
    for heard in _all_living(ws, refs):
        _remove(ws, heard)
        count += 1
    return AgentsUnregistered(count, resume)


def _refs_of(ws: Workspace, mailbox: bytes, after: str) -> tuple[list[bytes], str]:
    """Agents of a mailbox behind that name, a bounded number, and where to go on."""
    agents_of = keys.agents_of(mailbox)
    if ws.get(Family.AGENTS, agents_of) is None:
        return [], ""  # in most shards: a look-up that finds nothing is much cheaper than a scan
    start, stop = agents_of + after.encode() + b"\0", keys.after(agents_of)
    # Looking through all that the entry has written, for each of its REPORTs, would be quadratic.
    view = ws if agents_of in ws.reindexed else ws.committed
    rows = list(islice(view.scan(Family.AGENTS, start, stop), AGENTS_PER_STEP_MAX + 1))
    names = [key[len(agents_of) :].decode() for key, _ in rows[:AGENTS_PER_STEP_MAX]]
    account, _ = account_and_name(mailbox)
    resume = names[-1] if len(rows) > AGENTS_PER_STEP_MAX else ""
    return [agent_ref(account, name) for name in names], resume


def _all_living(ws: Workspace, refs: list[bytes]) -> Iterator[Heard]:
    for ref in refs:
        heard = ws.heard(ref)
        if heard and heard.lives_at(ws.now_ms):
            yield heard


# --- what time does ------------------------------------------------------------------------------


def look_at(ws: Workspace, ref: bytes) -> None:
    """The schedule's time for an agent has come: sweep it if it expired long ago, or come back."""
    heard = ws.heard(ref)
    if heard is None or not heard.expires_ms:
        return
    until_ms = heard.expires_ms + AGENT_KEPT_MS
    if until_ms <= ws.now_ms:
        _remove(ws, heard)
        return
    ws.schedule(until_ms, Due.AGENT_EXPIRY, ref, b"")
    heard.due_ms = until_ms
    ws.put_heard(heard)


# --- embedders -----------------------------------------------------------------------------------


def set_code(ws: Workspace, command: SetAgentCode) -> Done:
    """A code comes late; nothing happens where the card it was made of is gone."""
    ref = command.agent
    card_key = keys.agent_card(slot_of(ref), ref)
    row = ws.get(Family.AGENTS, card_key)
    card = unpack_card(row) if row else None
    if card is None or card_digest(card.body) != command.digest:
        return Done()
    if card.codes.get(command.embedder) != command.code:
        code = {command.embedder: command.code}
        ws.put(Family.AGENTS, card_key, pack_card(card._replace(codes=card.codes | code)))
        ws.agents.append(AgentChange(*account_and_name(ref), Change.CODED, codes=code))
    return Done()


def drop_embedder(ws: Workspace, command: DropEmbedder) -> Done:
    """Forget an embedder's codes, in steps; followers are not told, they drop them as a whole."""
    drop_codes(ws, command.embedder.encode() + b"\0" + keys.AGENT_CARDS)
    return Done()


def drop_codes(ws: Workspace, detail: bytes) -> None:
    """A step: `detail` is the embedder's id, NUL, and the card at which to go on."""
    name, _, start = detail.partition(b"\0")
    embedder = name.decode()
    scan = ws.scan(Family.AGENTS, start, keys.after(keys.AGENT_CARDS))
    for count, (key, row) in enumerate(list(islice(scan, DROPPED_ROWS_MAX + 1))):
        if count == DROPPED_ROWS_MAX:
            ws.schedule(ws.stamp_ms, Due.DROP_CODES, name + b"\0" + key, b"")
            return
        card = unpack_card(row)
        ws.spent += 1
        if embedder in card.codes:
            ws.spent += DROPPED_ROW_COST
            codes = {each: code for each, code in card.codes.items() if each != embedder}
            ws.put(Family.AGENTS, key, pack_card(card._replace(codes=codes)))
