"""The agents' commands that change the registry: what each means, on the shards that hold agents.

Called by `router`, one method per command; answers through a `Call`. An agent lives in the shard of
its name. A command by mailbox goes to every shard, since its agents may be anywhere; it is not
atomic, and says so where shards answered differently. DISCOVER is `discovery`'s.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import ParamSpec

from mq9cluster.broker.call import Call
from mq9cluster.broker.in_order import InOrder
from mq9cluster.cluster.shard import Shard
from mq9cluster.cluster.shards import Shards
from mq9cluster.domain.address import agent_ref, mailbox_ref
from mq9cluster.domain.agent import AgentCard
from mq9cluster.domain.command import (
    Command,
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    UnregisterAgent,
    UnregisterAgents,
)
from mq9cluster.domain.errors import AgentNotFound, Mq9Error, OutcomeUnknown
from mq9cluster.domain.outcome import (
    AgentRegistered,
    AgentsReported,
    AgentsUnregistered,
    Outcome,
    Refused,
)
from mq9cluster.domain.registry import NO_CODES
from mq9cluster.machine.codec import plain_report
from mq9cluster.protocol import agent_requests, replies

Codes = Mapping[str, bytes]  # by embedder id
Embed = Callable[[AgentCard, Callable[[Codes | Refused], None]], None]
"""Gives the codes there are for a card, now or later, once; raises the domain's errors."""

P = ParamSpec("P")
ByMailbox = ReportAgents | UnregisterAgents
_NAME, _MAILBOX = b"N", b"M"  # a name and an address may be the same bytes


def no_codes(_: AgentCard, done: Callable[[Codes | Refused], None]) -> None:
    """An `Embed` for a node that does not embed."""
    done(NO_CODES)


class Agents:
    """What agents tell of themselves. `ttl_s` is that of agents that name none; 0: for ever."""

    def __init__(self, shards: Shards, embed: Embed, ttl_s: int) -> None:
        self._shards = shards
        self._embed = embed
        self._ttl_s = ttl_s
        self._order = InOrder()

    def register(self, account: str, _: int, __: bytes | None, payload: bytes, call: Call) -> None:
        """AGENT.REGISTER."""
        card = agent_requests.parse_register(payload)
        key = _NAME + agent_ref(account, card.name)
        self._in_turn(key, call, self._register, account, card, call)

    def _register(self, account: str, card: AgentCard, call: Call) -> None:
        """Have the card embedded; commands for the same agent wait behind it."""
        keys = [_NAME + agent_ref(account, card.name)]
        if card.mailbox:
            keys.append(_MAILBOX + mailbox_ref(account, card.mailbox))
        for key in keys:
            self._order.begin(key)
        try:
            self._embed(card, partial(self._embedded, account, card, call, keys))
        except Mq9Error as error:
            self._embedded(account, card, call, keys, Refused(error))

    def _embedded(
        self,
        account: str,
        card: AgentCard,
        call: Call,
        keys: list[bytes],
        codes: Codes | Refused,
    ) -> None:
        if isinstance(codes, Refused):
            call.refuse(codes.error)
        else:
            ref = agent_ref(account, card.name)
            ttl_s = self._ttl_s if card.ttl_s is None else card.ttl_s
            command = RegisterAgent(ref, card.mailbox or "", ttl_s, card.body, tuple(codes.items()))
            self._shards.of(ref).propose(command, partial(_answer, call))
        for key in keys:
            self._order.end(key)

    def unregister(
        self, account: str, _: int, __: bytes | None, payload: bytes, call: Call
    ) -> None:
        """AGENT.UNREGISTER."""
        name, address = agent_requests.parse_unregister(payload)
        if address:
            ref = mailbox_ref(account, address)
            command = UnregisterAgents(ref)
            self._in_turn(_MAILBOX + ref, call, self._everywhere, command, address, call)
        else:
            agent = agent_ref(account, name)
            single = UnregisterAgent(agent)
            self._in_turn(_NAME + agent, call, self._propose, agent, single, call)

    def report(self, account: str, _: int, __: bytes | None, payload: bytes, call: Call) -> None:
        """AGENT.REPORT; many share an entry, for which each waits a little."""
        (name, address), report_info = agent_requests.parse_report(payload)
        if address:
            ref = mailbox_ref(account, address)
            command = ReportAgents(ref, report_info)
            everywhere = self._everywhere
            self._in_turn(_MAILBOX + ref, call, everywhere, command, address, call, may_wait=True)
            return
        agent = agent_ref(account, name)
        if self._order.is_idle:
            self._report(agent, report_info, call)
        else:
            self._in_turn(_NAME + agent, call, self._report, agent, report_info, call)

    def _report(self, agent: bytes, report_info: bytes, call: Call) -> None:
        """By name, as nearly all are: no object for what is bytes in the log as well."""
        done = partial(_answer, call)
        report = plain_report(agent, report_info)
        self._shards.of(agent).propose_encoded(ReportAgent, report, done, may_wait=True)

    def _in_turn(
        self,
        key: bytes,
        call: Call,
        work: Callable[P, None],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> None:
        """Do it now, or behind a REGISTER before it that is still being embedded."""
        if self._order.is_free(key):
            work(*args, **kwargs)
        else:
            self._order.wait(key, partial(_do, call, partial(work, *args, **kwargs)))

    def _propose(self, agent: bytes, command: Command, call: Call) -> None:
        self._shards.of(agent).propose(command, partial(_answer, call))

    def _everywhere(
        self,
        command: ByMailbox,
        address: str,
        call: Call,
        *,
        may_wait: bool = False,
    ) -> None:
        reply = replies.reported if isinstance(command, ReportAgents) else _done
        answers = _Answers(len(self._shards.all), address, call, reply)
        for shard in self._shards.all:
            done = partial(_step, shard, command, answers)
            shard.propose(command, done, may_wait=may_wait)


class _Answers:
    """What the shards answer to a command by mailbox, until the last one did."""

    __slots__ = ("_address", "_call", "_expiries", "_left", "_met", "_refused", "_reply")

    def __init__(
        self, shards: int, address: str, call: Call, reply: Callable[[int], bytes]
    ) -> None:
        """`reply` is made with the time at which the first agent expires."""
        self._reply = reply
        self._left = shards
        self._address = address
        self._call = call
        self._met = 0  # agents
        self._expiries: list[int] = []
        self._refused: list[Refused] = []

    def add(self, outcome: AgentsReported | AgentsUnregistered) -> None:
        """A step of a shard succeeded."""
        self._met += outcome.agents
        if isinstance(outcome, AgentsReported) and outcome.expires_at_s:
            self._expiries.append(outcome.expires_at_s)

    def end(self, refused: Refused | None = None) -> None:
        """A shard is done, or refused."""
        self._left -= 1
        if refused:
            self._refused.append(refused)
        if self._left:
            return
        if self._refused:
            self._call.refuse(self._failure())
        elif not self._met:
            self._call.refuse(AgentNotFound(f"none has the mailbox {self._address}"))
        else:
            self._call.reply(self._reply(min(self._expiries, default=0)))

    def _failure(self) -> Mq9Error:
        """A shard's own word where nothing was done; else that nobody knows how far it went."""
        errors = [refused.error for refused in self._refused]
        if not self._met and all(error.code != OutcomeUnknown.code for error in errors):
            return errors[0]
        return OutcomeUnknown(f"{len(errors)} shards did not do it: {errors[0]}")


def _step(shard: Shard, command: ByMailbox, answers: _Answers, outcome: Outcome) -> None:
    """A shard did a step of a command by mailbox: have it do the next, if there is one."""
    if isinstance(outcome, AgentsReported | AgentsUnregistered):
        answers.add(outcome)
        if outcome.resume:
            further = command._replace(after=outcome.resume)
            shard.propose(further, partial(_step, shard, further, answers))
        else:
            answers.end()
    elif isinstance(outcome, Refused):
        answers.end(outcome)


def _do(call: Call, work: Callable[[], None]) -> None:
    try:
        work()
    except Mq9Error as error:
        call.refuse(error)


def _done(_: int) -> bytes:
    return replies.DONE


def _answer(call: Call, outcome: Outcome) -> None:
    if isinstance(outcome, AgentsReported):
        call.reply(replies.reported(outcome.expires_at_s))
    elif isinstance(outcome, AgentRegistered):
        call.reply(replies.registered(outcome))
    elif isinstance(outcome, AgentsUnregistered):
        call.reply(replies.DONE)
    elif isinstance(outcome, Refused):
        call.refuse(outcome.error)
