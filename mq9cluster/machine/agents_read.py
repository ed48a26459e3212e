"""What readers see of a shard's agents: all of them to build an index, a few for a page of hits.

Expired agents that are not swept yet are among them:
whoever asks compares `expires_ms` with the shard's time.
"""

from collections.abc import Iterable, Iterator

from mq9cluster.domain.address import account_and_name, agent_ref, slot_of
from mq9cluster.domain.ports import Family, StateView
from mq9cluster.domain.registry import AgentFound, AgentRow
from mq9cluster.machine import keys
from mq9cluster.machine.agent_rows import unpack_card, unpack_seen
from mq9cluster.machine.workspace import Workspace


def all_agents(view: StateView) -> Iterator[AgentRow]:
    """Every agent of the shard, as of this call, in the order of slots and names. All rows must be
    written (`Machine.flush`).

    May be walked in another thread where the view's scans may.
    """
    cards, seen = keys.AGENT_CARDS, keys.AGENTS_SEEN
    # Both scans begin now, before anything is written, so that they fit together.
    return _rows(
        view.scan(Family.AGENTS, cards, keys.after(cards)),
        view.scan(Family.AGENTS, seen, keys.after(seen)),
    )


def _rows(
    cards: Iterator[tuple[bytes, bytes]], seen: Iterator[tuple[bytes, bytes]]
) -> Iterator[AgentRow]:
    for (key, card_row), (_, seen_row) in zip(cards, seen, strict=True):
        card = unpack_card(card_row)
        expires_ms = unpack_seen(seen_row).expires_ms
        yield AgentRow(*account_and_name(keys.agent_ref_of(key)), expires_ms, card.body, card.codes)


def agents_at(ws: Workspace, account: str, names: Iterable[str]) -> list[AgentFound]:
    """The agents of these names, in their order; those that are not registered are left out."""
    found: list[AgentFound] = []
    for name in names:
        ref = agent_ref(account, name)
        row = ws.get(Family.AGENTS, keys.agent_card(slot_of(ref), ref))
        heard = ws.heard(ref)
        if row is not None and heard is not None:
            card = unpack_card(row)
            times = (heard.seen_ms, heard.expires_ms)
            found.append(AgentFound(name, card.address, card.body, *times, heard.report_info))
    return found
