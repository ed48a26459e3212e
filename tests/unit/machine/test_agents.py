"""Agents in the state machine: docs/protocol.md section 4, of machine and model alike."""

from unittest.mock import patch

import pytest

from mq9cluster.domain import command as c
from mq9cluster.domain import limits
from mq9cluster.domain.address import agent_ref, mailbox_ref
from mq9cluster.domain.agent import card_digest
from mq9cluster.domain.errors import AgentNotFound, Overloaded
from mq9cluster.domain.limits import AGENT_KEPT_MS
from mq9cluster.domain.outcome import (
    AgentRegistered,
    AgentsReported,
    AgentsUnregistered,
    Done,
    Outcome,
    Refused,
)
from mq9cluster.domain.ports import Family
from mq9cluster.domain.registry import AgentChange, AgentFound, AgentsSeen, Change, Changes
from mq9cluster.machine import keys, registry, rows
from tests.property.machine_shard import MachineShard
from tests.unit.machine.harness import START_MS, Shard, why

START_S = START_MS // 1000
BODY = b'{"name":"a"}'


def register(
    shard: Shard,
    name: str = "a",
    address: str = "",
    ttl_s: int = 300,
    body: bytes = BODY,
    account: str = "$G",
    **codes: bytes,
) -> Outcome:
    ref = agent_ref(account, name)
    return shard.apply(c.RegisterAgent(ref, address, ttl_s, body, tuple(codes.items())))


def unregister(shard: Shard, name: str = "a", account: str = "$G") -> Outcome:
    return shard.apply(c.UnregisterAgent(agent_ref(account, name)))


def report(shard: Shard, name: str = "a", info: bytes = b"", account: str = "$G") -> Outcome:
    return shard.apply(c.ReportAgent(agent_ref(account, name), info))


def report_all(shard: Shard, address: str = "m", info: bytes = b"", after: str = "") -> Outcome:
    return shard.apply(c.ReportAgents(mailbox_ref("$G", address), info, after))


def unregister_all(shard: Shard, address: str = "m", after: str = "") -> Outcome:
    return shard.apply(c.UnregisterAgents(mailbox_ref("$G", address), after))


def names(shard: Shard, account: str = "$G") -> list[str]:
    """Of agents in the registry, expired ones included."""
    shard.apply(c.Expire())
    known = shard.backend.known_agents()  # type: ignore[attr-defined]
    return sorted(name for owner, name in known if owner == account)


def codes(shard: Shard, name: str = "a") -> dict[str, bytes]:
    known = shard.backend.known_agents()  # type: ignore[attr-defined]
    return dict(known["$G", name][2])


def shown(shard: Shard, *names: str) -> list[AgentFound]:
    found: list[AgentFound] = shard.backend.agents_at("$G", names)  # type: ignore[attr-defined]
    return found


# --- REGISTER and UNREGISTER ---------------------------------------------------------------------


def test_a_registered_agent_is_there_with_its_card_and_codes(bare: Shard) -> None:
    assert register(bare, "a", "m", 300, e=b"\x01") == AgentRegistered("a", START_S + 300)
    expires_ms = START_MS + 300_000
    assert shown(bare, "a", "b") == [AgentFound("a", "m", BODY, START_MS, expires_ms, b"")]
    assert codes(bare) == {"e": b"\x01"}


def test_an_agent_of_another_account_is_another_agent(bare: Shard) -> None:
    register(bare, "a")
    register(bare, "a", account="other", body=b"{}")
    assert why(unregister(bare, "a", account="third")) is AgentNotFound
    assert unregister(bare, "a", account="other") == AgentsUnregistered(1)
    assert names(bare) == ["a"]


def test_registering_again_replaces_the_card(bare: Shard) -> None:
    register(bare, "a", "m", 300, e=b"\x01")
    bare.wait(s=10)
    assert register(bare, "a", "n", 60, b"{}", f=b"\x02") == AgentRegistered("a", START_S + 70)
    assert [agent.body for agent in shown(bare, "a")] == [b"{}"]
    assert codes(bare) == {"f": b"\x02"}
    assert report_all(bare, "m") == AgentsReported(0, 0)
    assert report_all(bare, "n") == AgentsReported(1, START_S + 70)


def test_codes_stay_with_the_very_same_card(bare: Shard) -> None:
    register(bare, e=b"\x01")
    register(bare)
    assert codes(bare) == {"e": b"\x01"}
    register(bare, f=b"\x02")
    assert codes(bare) == {"e": b"\x01", "f": b"\x02"}
    register(bare, e=b"\x03")
    assert codes(bare) == {"e": b"\x03", "f": b"\x02"}


def test_what_an_agent_reported_stays_until_it_expires(bare: Shard) -> None:
    register(bare, ttl_s=10)
    report(bare, info=b'"busy"')
    register(bare, ttl_s=10, body=b"{}")
    assert [agent.report_info for agent in shown(bare, "a")] == [b'"busy"']
    bare.wait(s=10)
    register(bare, ttl_s=10, body=b"{}")
    assert [agent.report_info for agent in shown(bare, "a")] == [b""]


def test_an_unregistered_agent_is_gone(bare: Shard) -> None:
    register(bare, "a", "m")
    assert unregister(bare) == AgentsUnregistered(1)
    assert names(bare) == []
    assert unregister(bare) == Refused(AgentNotFound("a"))
    assert report_all(bare, "m") == AgentsReported(0, 0)


def test_an_unregistered_agent_can_come_back_anew(bare: Shard) -> None:
    register(bare, e=b"\x01")
    report(bare, info=b"1")
    unregister(bare)
    register(bare)
    assert [agent.report_info for agent in shown(bare, "a")] == [b""]
    assert codes(bare) == {}


# --- REPORT and ttl ------------------------------------------------------------------------------


def test_a_report_renews_the_ttl(bare: Shard) -> None:
    register(bare, ttl_s=10)
    for _ in range(5):
        bare.wait(9_999)
        assert why(report(bare)) is None
    bare.wait(9_999)
    assert report(bare) == AgentsReported(1, (bare.now_ms + 10_000) // 1000)


def test_an_agent_is_gone_the_moment_its_ttl_has_passed(bare: Shard) -> None:
    register(bare, ttl_s=10)
    bare.wait(10_000)
    assert report(bare) == Refused(AgentNotFound("a"))
    assert unregister(bare) == Refused(AgentNotFound("a"))


def test_an_expired_agent_is_kept_a_while_and_then_swept(bare: Shard) -> None:
    register(bare, "a", "m", ttl_s=10)
    bare.wait(10_000 + AGENT_KEPT_MS - 1)
    assert names(bare) == ["a"]
    bare.wait(1)
    assert names(bare) == []
    register(bare, "a", "n", ttl_s=10)
    assert report_all(bare, "m") == AgentsReported(0, 0)


def test_an_expired_agent_registers_again(bare: Shard) -> None:
    register(bare, ttl_s=10)
    bare.wait(10_000)
    register(bare, ttl_s=10)
    assert report(bare) == AgentsReported(1, START_S + 20)
    bare.wait(10_000 + AGENT_KEPT_MS)
    assert names(bare) == []


def test_an_agent_that_reported_is_swept_by_its_last_report(bare: Shard) -> None:
    register(bare, ttl_s=10)
    bare.wait(9_000)
    report(bare)
    bare.wait(10_000 + AGENT_KEPT_MS - 1)
    assert names(bare) == ["a"]
    bare.wait(1)
    assert names(bare) == []


@pytest.mark.parametrize(("first_s", "then_s"), [(1_000, 10), (10, 1_000), (0, 10), (10, 0)])
def test_the_ttl_of_the_last_register_counts(bare: Shard, first_s: int, then_s: int) -> None:
    register(bare, ttl_s=first_s)
    register(bare, ttl_s=then_s)
    bare.wait(then_s * 1000 + AGENT_KEPT_MS - 1)
    assert names(bare) == ["a"]
    bare.wait(1)
    assert names(bare) == ([] if then_s else ["a"])


def test_ttl_0_is_never(bare: Shard) -> None:
    assert register(bare, ttl_s=0) == AgentRegistered("a", 0)
    bare.wait(days=4_000)
    assert report(bare) == AgentsReported(1, 0)


def test_a_report_without_info_leaves_what_was_said(bare: Shard) -> None:
    register(bare)
    report(bare, info=b'{"load":1}')
    bare.wait(5)
    report(bare)
    (agent,) = shown(bare, "a")
    assert (agent.seen_ms, agent.report_info) == (START_MS + 5, b'{"load":1}')
    report(bare, info=b"2")
    assert shown(bare, "a")[0].report_info == b"2"


# --- by mailbox ----------------------------------------------------------------------------------


def test_a_command_by_mailbox_means_every_living_agent_with_it(bare: Shard) -> None:
    register(bare, "late", "m", ttl_s=5)
    bare.wait(5_000)
    for name, ttl_s in (("a", 300), ("b", 60), ("c", 0)):
        register(bare, name, "m", ttl_s)
    register(bare, "d", "m.other")
    register(bare, "e", "m", account="other")
    assert report_all(bare, "m", b"7") == AgentsReported(3, START_S + 65)
    assert [agent.report_info for agent in shown(bare, "a", "d", "late")] == [b"7", b"", b""]
    assert unregister_all(bare, "m") == AgentsUnregistered(3)
    assert names(bare) == ["d", "late"]
    assert names(bare, "other") == ["e"]
    assert unregister_all(bare, "m") == AgentsUnregistered(0)


def test_agents_that_never_expire_report_no_time(bare: Shard) -> None:
    register(bare, "a", "m", ttl_s=0)
    assert report_all(bare) == AgentsReported(1, 0)


def test_a_command_by_mailbox_goes_step_by_step(
    bare: Shard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AGENTS_PER_STEP_MAX", 2)
    monkeypatch.setattr(registry, "AGENTS_PER_STEP_MAX", 2)
    for name in ("a", "b", "c", "d"):
        register(bare, name, "m")
    register(bare, "b", "m", ttl_s=0)
    assert report_all(bare) == AgentsReported(2, START_S + 300, "b")
    assert report_all(bare, after="b") == AgentsReported(2, START_S + 300)
    assert unregister_all(bare) == AgentsUnregistered(2, "b")
    assert unregister_all(bare, after="b") == AgentsUnregistered(2)


def test_a_command_by_mailbox_sees_its_own_entry() -> None:
    machine = MachineShard()
    a, b, m = agent_ref("$G", "a"), agent_ref("$G", "b"), mailbox_ref("$G", "m")
    machine.entry(START_MS, [c.RegisterAgent(a, "m", 300, BODY)])
    outcomes = machine.entry(
        START_MS,
        [
            c.RegisterAgent(b, "m", 300, BODY),
            c.ReportAgents(m),
            c.UnregisterAgent(a),
            c.ReportAgents(m),
            c.UnregisterAgents(m),
            c.ReportAgents(m),
        ],
    )
    found = [o.agents for o in outcomes if isinstance(o, AgentsReported | AgentsUnregistered)]
    assert found == [2, 1, 1, 1, 0]
    assert machine.store.rows[Family.AGENTS] == {}
    assert machine.machine.workspace.shard.agents == 0


# --- embedders -----------------------------------------------------------------------------------


def set_code(shard: Shard, body: bytes, embedder: str, code: bytes, name: str = "a") -> Outcome:
    ref = agent_ref("$G", name)
    return shard.apply(c.SetAgentCode(ref, card_digest(body), embedder, code))


def test_a_late_code_joins_its_card(bare: Shard) -> None:
    register(bare, e=b"\x01")
    assert set_code(bare, BODY, "f", b"\x02") == Done()
    assert codes(bare) == {"e": b"\x01", "f": b"\x02"}


def test_a_late_code_of_another_card_or_of_none_is_dropped(bare: Shard) -> None:
    register(bare, body=b"{}", e=b"\x01")
    assert set_code(bare, BODY, "e", b"\x02") == Done()
    assert set_code(bare, BODY, "e", b"\x02", "b") == Done()
    assert codes(bare) == {"e": b"\x01"}
    assert names(bare) == ["a"]


def test_a_dropped_embedder_leaves_no_codes(bare: Shard) -> None:
    register(bare, "a", e=b"\x01", f=b"\x02")
    register(bare, "b", e=b"\x01")
    assert bare.apply(c.DropEmbedder("e")) == Done()
    assert (codes(bare, "a"), codes(bare, "b")) == ({"f": b"\x02"}, {})


def test_an_embedder_is_dropped_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "DROPPED_ROWS_MAX", 2)
    monkeypatch.setattr(registry, "DROPPED_ROW_COST", 1_000)
    shard = Shard(MachineShard())
    for name in "abcdefg":
        register(shard, name, e=b"\x01")
    shard.apply(c.DropEmbedder("e"))
    left = [sum(bool(codes(shard, name)) for name in "abcdefg")]
    while left[-1]:
        shard.apply(c.Expire())
        left.append(sum(bool(codes(shard, name)) for name in "abcdefg"))
    assert left == [5, 3, 1, 0]


# --- what followers are told ---------------------------------------------------------------------


def changes(shard: Shard) -> Changes:
    backend = shard.backend
    assert isinstance(backend, MachineShard)
    return backend.changes


def test_followers_are_told_what_changed() -> None:
    shard = Shard(MachineShard())
    expires_ms = START_MS + 300_000
    register(shard, "a", "m", e=b"\x01")
    registered = AgentChange("$G", "a", Change.REGISTERED, expires_ms, BODY, {"e": b"\x01"})
    assert changes(shard) == [registered]
    report(shard)
    seen = AgentsSeen(expires_ms, [("$G", "a")])
    assert changes(shard) == [seen]
    register(shard, "a", "m")
    assert changes(shard) == [seen]
    set_code(shard, BODY, "f", b"\x02")
    assert changes(shard) == [AgentChange("$G", "a", Change.CODED, codes={"f": b"\x02"})]
    set_code(shard, BODY, "f", b"\x02")
    assert changes(shard) == []
    report_all(shard, "m")
    assert changes(shard) == [seen]
    unregister(shard)
    assert changes(shard) == [AgentChange("$G", "a", Change.GONE)]
    report(shard)
    assert changes(shard) == []


def test_followers_are_told_when_an_expired_agent_is_swept() -> None:
    shard = Shard(MachineShard())
    register(shard, ttl_s=10)
    shard.wait(10_000 + AGENT_KEPT_MS)
    shard.apply(c.Expire())
    assert changes(shard) == [AgentChange("$G", "a", Change.GONE)]


# --- rows ----------------------------------------------------------------------------------------


def test_a_report_writes_one_small_row() -> None:
    shard = Shard(MachineShard())
    register(shard, "a", "m", body=b'{"payload":"' + b"x" * 9_000 + b'"}', e=bytes(512))
    shard.wait(1_000)
    report(shard, info=b'"ok"')
    backend = shard.backend
    assert isinstance(backend, MachineShard)
    written = {key: row for table in backend.writes.rows.values() for key, row in table.items()}
    assert written == {}, "the log says it"
    later = backend.machine.flush()
    ((key, row),) = later.rows[Family.AGENTS].items()
    assert key[:1] == keys.AGENTS_SEEN
    assert row is not None
    assert len(row) < 48


def test_nothing_is_left_of_agents_that_are_gone() -> None:
    machine = MachineShard()
    shard = Shard(machine)
    for name in "abc":
        register(shard, name, "m", ttl_s=10)
    register(shard, "b", "n", ttl_s=1_000)
    unregister(shard, "a")
    shard.wait(1_000_000 + AGENT_KEPT_MS)
    shard.apply(c.Expire())
    assert machine.store.rows[Family.AGENTS] == {}
    assert machine.store.rows[Family.SCHEDULE] == {}
    assert machine.machine.workspace.shard.agents == 0


def test_a_shard_holds_so_many_agents_and_no_more() -> None:
    shard = Shard(MachineShard())
    with patch.object(registry, "AGENTS_PER_SHARD_MAX", 2):
        assert why(register(shard, "a")) is None
        assert why(register(shard, "b")) is None
        assert why(register(shard, "c")) is Overloaded
        assert why(register(shard, "b", body=b"{}")) is None
        unregister(shard, "a")
        assert why(register(shard, "c")) is None


@pytest.mark.parametrize(("agents", "version"), [(0, 1), (9, 2)])
def test_a_shard_row_is_one_that_older_versions_read_where_there_are_no_agents(
    agents: int, version: int
) -> None:
    shard = rows.Shard()
    shard.applied_index, shard.now_ms, shard.mailboxes, shard.messages = 5, 6, 7, 8
    shard.agents = agents
    row = shard.pack()
    assert row[0] == version
    assert rows.Shard.unpack(row).agents == agents
    assert rows.Shard.unpack(row).pack() == row
    with pytest.raises(rows.UnknownRowFormat):
        rows.Shard.unpack(b"\x04" + row[1:])


def test_a_shard_row_says_which_heartbeats_are_in_the_log_alone() -> None:
    shard = rows.Shard()
    shard.agents, shard.heard_from, shard.heard_ms = 9, 5, 6
    row = shard.pack()
    assert row[0] == 3
    again = rows.Shard.unpack(row)
    assert (again.agents, again.heard_from, again.heard_ms) == (9, 5, 6)
    assert again.pack() == row
