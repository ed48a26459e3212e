"""A plain model of one shard's agents: a dict, nothing clever.

Written from docs/protocol.md section 4 alone, never from the machine's code.
`model.Model` owns one; `Follower` is what whoever follows the registry knows of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mq9cluster.domain import command as c
from mq9cluster.domain import errors, limits, outcome
from mq9cluster.domain.address import account_and_name, agent_ref, mailbox_ref
from mq9cluster.domain.agent import card_digest
from mq9cluster.domain.registry import AgentFound, AgentRow, AgentsSeen, Change, Changes

Known = dict[tuple[str, str], tuple[int, bytes, dict[str, bytes]]]


class NotFound(Exception):
    """There is no such agent, or its ttl has passed."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.error = errors.AgentNotFound(name)


@dataclass(slots=True)
class Agent:
    """An agent; it stays a while after it expired."""

    address: str
    body: bytes
    codes: dict[str, bytes]
    ttl_s: int
    seen_ms: int = 0
    expires_ms: int = 0
    report_info: bytes = b""

    def lives(self, now_ms: int) -> bool:
        return not self.expires_ms or self.expires_ms > now_ms

    def heard_of(self, now_ms: int, report_info: bytes) -> int:
        """It lives; when it expires, in Unix seconds."""
        self.seen_ms = now_ms
        self.expires_ms = now_ms + self.ttl_s * 1000 if self.ttl_s else 0
        self.report_info = report_info or self.report_info
        return self.expires_ms // 1000


@dataclass(slots=True)
class Agents:
    """All agents of the shard."""

    by_ref: dict[bytes, Agent] = field(default_factory=dict)

    def swept_at(self, ref: bytes) -> int:
        """When an agent is gone for good, if it is not heard of; 0 for never."""
        expires_ms = self.by_ref[ref].expires_ms
        return expires_ms + limits.AGENT_KEPT_MS if expires_ms else 0

    def register(self, now_ms: int, command: c.RegisterAgent) -> outcome.Outcome:
        old = self.by_ref.get(command.agent)
        codes = dict(command.codes)
        if old and (old.body, old.address) == (command.body, command.address):
            codes = old.codes | codes
        agent = Agent(command.address, command.body, codes, command.ttl_s)
        self.by_ref[command.agent] = agent
        info = old.report_info if old and old.lives(now_ms) else b""
        name = account_and_name(command.agent)[1]
        return outcome.AgentRegistered(name, agent.heard_of(now_ms, info))

    def _living(self, now_ms: int, ref: bytes) -> Agent:
        agent = self.by_ref.get(ref)
        if agent is None or not agent.lives(now_ms):
            raise NotFound(account_and_name(ref)[1])
        return agent

    def unregister(self, now_ms: int, command: c.UnregisterAgent) -> outcome.Outcome:
        self._living(now_ms, command.agent)
        del self.by_ref[command.agent]
        return outcome.AgentsUnregistered(1)

    def report(self, now_ms: int, command: c.ReportAgent) -> outcome.Outcome:
        agent = self._living(now_ms, command.agent)
        return outcome.AgentsReported(1, agent.heard_of(now_ms, command.report_info))

    def _of(self, now_ms: int, mailbox: bytes, after: str) -> tuple[list[bytes], str]:
        """Living agents of a mailbox in one step behind that name, and where to go on."""
        every = sorted(
            ref
            for ref, agent in self.by_ref.items()
            if agent.address and mailbox_ref(account_and_name(ref)[0], agent.address) == mailbox
            if account_and_name(ref)[1].encode() > after.encode()
        )
        step = every[: limits.AGENTS_PER_STEP_MAX]
        resume = account_and_name(step[-1])[1] if len(step) < len(every) else ""
        return [ref for ref in step if self.by_ref[ref].lives(now_ms)], resume

    def report_all(self, now_ms: int, command: c.ReportAgents) -> outcome.Outcome:
        refs, resume = self._of(now_ms, command.mailbox, command.after)
        times = [self.by_ref[ref].heard_of(now_ms, command.report_info) for ref in refs]
        return outcome.AgentsReported(len(refs), min(filter(None, times), default=0), resume)

    def unregister_all(self, now_ms: int, command: c.UnregisterAgents) -> outcome.Outcome:
        refs, resume = self._of(now_ms, command.mailbox, command.after)
        for ref in refs:
            del self.by_ref[ref]
        return outcome.AgentsUnregistered(len(refs), resume)

    def set_code(self, _: int, command: c.SetAgentCode) -> outcome.Outcome:
        agent = self.by_ref.get(command.agent)
        if agent and card_digest(agent.body) == command.digest:
            agent.codes = {**agent.codes, command.embedder: command.code}
        return outcome.Done()

    def drop_embedder(self, _: int, command: c.DropEmbedder) -> outcome.Outcome:
        for agent in self.by_ref.values():
            agent.codes = {e: code for e, code in agent.codes.items() if e != command.embedder}
        return outcome.Done()

    # --- reads -----------------------------------------------------------------------------------

    def known(self) -> Known:
        """What a follower knows."""
        return {
            account_and_name(ref): (agent.expires_ms, agent.body, agent.codes)
            for ref, agent in self.by_ref.items()
        }

    def found(self, account: str, names: Iterable[str]) -> list[AgentFound]:
        """A page of agents."""
        refs = [(name, agent_ref(account, name)) for name in names]
        return [
            AgentFound(name, a.address, a.body, a.seen_ms, a.expires_ms, a.report_info)
            for name, a in ((name, self.by_ref[ref]) for name, ref in refs if ref in self.by_ref)
        ]


class Follower:
    """What the registry's changes alone tell of it."""

    def __init__(self, rows: Iterable[AgentRow] = ()) -> None:
        self.agents: Known = {
            (row.account, row.name): (row.expires_ms, row.body, dict(row.codes)) for row in rows
        }

    def follow(self, changes: Changes) -> None:
        for change in changes:
            if isinstance(change, AgentsSeen):
                for who in change.agents:
                    self.agents[who] = change.expires_ms, *self.agents[who][1:]
                continue
            account, name, kind, expires_ms, body, codes = change
            who = account, name
            match kind:
                case Change.REGISTERED:
                    self.agents[who] = expires_ms, body, dict(codes)
                case Change.CODED:
                    *same, known = self.agents[who]
                    self.agents[who] = (*same, {**known, **codes})
                case Change.GONE:
                    del self.agents[who]

    def drop(self, embedder: str) -> None:
        """An embedder is dropped as a whole: no change says so."""
        for who, (expires_ms, body, codes) in self.agents.items():
            rest = {each: code for each, code in codes.items() if each != embedder}
            self.agents[who] = expires_ms, body, rest
