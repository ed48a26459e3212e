"""Entries as a busy shard would see them, from a seed: for tests that need much of everything."""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence

from mq9cluster.domain import command as c
from mq9cluster.domain.address import agent_ref, mailbox_ref
from mq9cluster.domain.agent import card_digest
from mq9cluster.domain.outcome import HandedOut
from tests.property.machine_shard import MachineShard

START_MS = 1_700_000_000_000
NAMES = ("a", "b", "c.d", "a.dlq")
BOXES = [mailbox_ref(account, name) for account in ("$G", "b") for name in NAMES]
PAUSES_MS = [0, 0, 1, 5, 400, 1_000, 2_500, 60_000, 86_400_000, 7 * 86_400_000]

Entry = tuple[int, list[c.Command]]


def run(
    shard: MachineShard, seed: int, entries: int, ttl_s_of: Sequence[int] = (0, 0, 5, 90_000)
) -> Iterator[Sequence[object]]:
    """Apply a workload; what each entry came to."""
    rng = random.Random(seed)
    now_ms, names = START_MS, ["unknown"]
    for _ in range(entries):
        now_ms += rng.choice(PAUSES_MS)
        commands = [
            _agents(rng, ttl_s_of) if rng.randrange(5) == 0 else _command(rng, names, ttl_s_of)
            for _ in range(rng.randint(1, 8))
        ]
        outcomes = shard.entry(now_ms, commands)
        names += [o.handout for o in outcomes if isinstance(o, HandedOut) and o.handout]
        yield outcomes


def digest(seed: int, entries: int) -> str:
    """What every entry answered and wrote, in one hash."""
    shard = MachineShard()
    sums = hashlib.sha256()
    for outcomes in run(shard, seed, entries):
        sums.update(repr(outcomes).encode())
        sums.update(repr(sorted(shard.writes.ranges)).encode())
        for family, rows in shard.writes.rows.items():
            sums.update(repr((family, sorted(rows.items()))).encode())
    return sums.hexdigest()


def _command(rng: random.Random, names: list[str], ttl_s_of: Sequence[int]) -> c.Command:
    box = rng.choice(BOXES[:1] * 4 + BOXES)
    group = rng.choice(["g", "g", "h", "i"])
    owner = c.Owner(rng.randint(1, 2), rng.randint(2, 3), rng.randint(1, 3))
    msg_id = rng.randint(0, 40)
    kind = rng.choices(range(8), [2, 12, 8, 8, 4, 2, 2, 0.2])[0]
    match kind:
        case 0:
            limits = rng.choice([0, 0, 20]), rng.choice([0, 0, 99])
            ttl_s, max_deliver = rng.choice(ttl_s_of), rng.randint(0, 3)
            return c.CreateMailbox(box, ttl_s, "d", max_deliver, *limits, rng.choice([True, False]))
        case 1:
            return _send(rng, box)
        case 2:
            return c.FetchMessages(
                box, group, owner, rng.choice(["", "", "w"]), rng.choice(list(c.Deliver)),
                rng.choice([3, START_MS // 1000]), rng.randrange(20) == 0,
                rng.choice([(), (), ("x",)]), rng.choice([1, 3, 100]), rng.choice([0, 0, 2_000]),
            )  # fmt: skip
        case 3:
            name = rng.choice(["", "", names[-1], rng.choice(names)])
            return c.AckMessages(box, group, msg_id, owner, name, rng.choice([0, 0, 1, 2]))
        case 4:
            return c.NackMessage(box, group, msg_id, owner, rng.choice([0, 0, 3]))
        case 5:
            return c.DeleteMessage(box, msg_id)
        case 6:
            return c.EndConnection(owner)
    return c.EndIncarnation(owner.node, 2)


def _agents(rng: random.Random, ttl_s_of: Sequence[int]) -> c.Command:
    agent = agent_ref(rng.choice(["$G", "b"]), rng.choice("abcde"))
    mailbox, info = rng.choice(BOXES), rng.choice([b"", b"7"])
    body, embedder, code = rng.choice([b"{}", b"[]"]), rng.choice("ef"), rng.randbytes(2)
    return rng.choices(
        [
            c.RegisterAgent(
                agent, rng.choice(["", *NAMES]), rng.choice(ttl_s_of), body,
                rng.choice([(), ((embedder, code),)]),
            ),
            c.ReportAgent(agent, info),
            c.UnregisterAgent(agent),
            c.ReportAgents(mailbox, info),
            c.UnregisterAgents(mailbox),
            c.SetAgentCode(agent, card_digest(body), embedder, code),
            c.DropEmbedder(embedder),
        ],
        [9, 9, 2, 3, 1, 3, 0.5],
    )[0]  # fmt: skip


def _send(rng: random.Random, box: bytes) -> c.SendMessage:
    tags = rng.choice([[], [], ["x"], ["y", "z"]])
    return c.SendMessage(
        box,
        rng.randbytes(rng.randint(0, 9)),
        rng.choice([0, 1, 2, 2, 2, 3]),
        rng.choice([b"", b"", b"k", b"l"]),
        json.dumps({"tags": tags, "header": {"h": "v"}}).encode() if tags else b"",
        rng.choice([0, 0, 2, 100]),
        rng.choice([0, 0, 0, 1, 50]),
        rng.choice([b"", b"", rng.randbytes(1)]),
    )
