"""The same registrations, in any order, in any entries, on any number of shards and nodes, followed
as they come or read from the state: the same answer at every node. Through state machine,
directory, messages between nodes and merging; no threads, no sockets.
"""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from mq9cluster.cluster.finding import Search
from mq9cluster.domain import command as c
from mq9cluster.domain.address import agent_ref
from mq9cluster.domain.agent import card_digest, parse_card
from mq9cluster.search.filter import parse_filter
from mq9cluster.search.query import Question, parse_units
from mq9cluster.search.ranking import depth_of
from mq9cluster.search.vectors import quantize
from tests.support.searching import ANALYZER, SearchedNodes

ACCOUNT = "$G"
TINY, OTHER = "tiny:t:1:3:-", "other:o:1:2:-"
WORDS = ["ocr", "scan", "translate", "invoice", "翻译文件", "résumé", "a", "x1"]
REGISTERED_MS, NOW_MS = 1_000, 5_000

texts = st.lists(st.sampled_from(WORDS), max_size=6).map(" ".join)
vectors = st.tuples(*[st.integers(-3, 3)] * 3).filter(any)


@st.composite
def registrations(draw):
    """name, card, vector, whether the vector comes late, ttl, whether it unregisters at last."""
    body = {
        "name": draw(st.sampled_from([f"agent-{i}" for i in range(10)])),
        "description": draw(texts),
        "tags": draw(st.lists(st.sampled_from(["red", "blue"]), max_size=2)),
        "skills": draw(st.lists(st.sampled_from(WORDS), max_size=2)),
    }
    return (
        parse_card(body),
        draw(st.none() | vectors),
        draw(st.booleans()),
        draw(st.sampled_from([0, 1, 60])),
        draw(st.sampled_from([False, False, True])),
    )


questions = st.fixed_dictionaries(
    {
        "text": texts | st.sampled_from(['"ocr scan"', "trans*", "agent", "翻译"]),
        "vector": st.none() | vectors,
        "condition": st.sampled_from(
            [None, {"tags": "red"}, {"not": {"tags": ["red"], "name": "agent-1"}}, {"skills": "a"}]
        ),
        "limit": st.integers(1, 4),
        "page": st.integers(1, 3),
        "live": st.booleans(),
        "min_score": st.sampled_from([0.0, 0.3]),
    }
)


def commands_of(registered):
    """Those of one agent, which must stay in their order."""
    card, vector, late, ttl_s, gone = registered
    ref = agent_ref(ACCOUNT, card.name)
    code = quantize(list(vector), 3) if vector else b""
    now = {OTHER: quantize([1, len(card.body) % 3], 2)}
    if code and not late:
        now[TINY] = code
    found = [c.RegisterAgent(ref, "", ttl_s, card.body, tuple(now.items()))]
    if code and late:
        found.append(c.SetAgentCode(ref, card_digest(card.body), TINY, code))
        found.append(c.SetAgentCode(ref, b"another card", TINY, quantize([1, 1, 1], 3)))
    if gone:
        found.append(c.UnregisterAgent(ref))
    return found


def search_of(text, vector, condition, limit, page, *, live, min_score):
    units = parse_units(text, ANALYZER) if text else ()
    fused = bool(units) and vector is not None
    question = Question(
        units=units,
        vectors=((TINY, quantize(list(vector), 3)),) if vector else (),
        stand_in=(OTHER, quantize([1, 1], 2), 0.1) if vector else None,
        filter=parse_filter(condition),
        now_ms=int(live),
        depth=depth_of(limit, page, 2 if fused else 1, by_name=not text and not vector),
        min_score=0.0 if fused else min_score,
        exact=True,
        by_name=not text and not vector,
    )
    return Search(ACCOUNT, question, limit, page, min_score if fused else 0.0)


def fill(nodes, registered, chance):
    """Apply each agent's commands in order, and the agents' in any, in entries of any size."""
    queues = [commands_of(one) for one in registered]
    nodes.now_ms = NOW_MS
    while queues:
        entry = []
        for _ in range(chance.randint(1, 5)):
            if queues:
                queue = chance.choice(queues)
                entry.append(queue.pop(0))
                queues = [queue for queue in queues if queue]
        nodes.apply(REGISTERED_MS, entry)


async def everywhere(nodes, search):
    found = []
    for finder in nodes.finders.values():
        page, agents, missing = await finder.find(search)
        assert list(missing) == []
        assert {hit.name for hit in page.hits} == set(agents)
        found.append((page, {name: agent.body for name, agent in agents.items()}))
    return found


@settings(max_examples=120, deadline=None)
@given(
    st.lists(registrations(), max_size=20),
    questions,
    st.integers(2, 5),
    st.sampled_from([("a",), ("a", "b"), ("a", "b", "c")]),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_answers_depend_on_nothing_but_what_is_registered(
    registered, question, shards, names, rebuilt, chance
):
    async def check():
        # In the order given: a name's last registration is the one that counts.
        last = list({one[0].name: one for one in registered}.values())
        one = SearchedNodes(["a"])
        one.now_ms = NOW_MS
        for each in registered[: len(registered) // 2]:  # replaced ones leave nothing behind
            if each not in last:
                one.apply(REGISTERED_MS, commands_of(each))
        fill(one, last, chance)
        many = SearchedNodes([chance.choice(names) for _ in range(shards)])
        chance.shuffle(last)
        fill(many, last, chance)
        if rebuilt:
            await many.rebuild()
        search = search_of(**question)
        [expected] = await everywhere(one, search)
        for found in await everywhere(many, search):
            assert found == expected

    asyncio.run(check())


def test_a_node_that_is_down_is_missing_with_its_shards_and_nothing_else():
    async def check():
        nodes = SearchedNodes(["a", "b", "a", "b"])
        nodes.now_ms = NOW_MS
        cards = [parse_card({"name": f"agent-{n}", "description": "ocr"}) for n in range(40)]
        nodes.apply(
            REGISTERED_MS,
            [c.RegisterAgent(agent_ref(ACCOUNT, card.name), "", 0, card.body) for card in cards],
        )
        asked = {"vector": None, "condition": None, "limit": 100, "page": 1, "live": True}
        search = search_of("ocr", min_score=0.0, **asked)
        whole = await nodes.finders["a"].find(search)
        assert (whole.page.total, list(whole.missing)) == (40, [])
        nodes.down.add("b")
        part = await nodes.finders["a"].find(search)
        assert list(part.missing) == [1, 3]
        held = {card.name for card in cards if nodes.shard_of(ACCOUNT, card.name) in (0, 2)}
        assert {hit.name for hit in part.page.hits} == held
        stale = await nodes.finders["a"].find(search._replace(stale=True))
        assert list(stale.missing) == [1, 3]

    asyncio.run(check())
