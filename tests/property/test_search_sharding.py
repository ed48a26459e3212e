"""The same registrations, in any order and on any number of shards, give the same answers."""

from hypothesis import given, settings
from hypothesis import strategies as st

from mq9cluster.domain.agent import parse_card
from tests.unit.search.support import TINY, ask, code, new_index

WORDS = ["ocr", "scan", "translate", "translation", "invoice", "翻译文件", "résumé", "a", "x1"]
texts = st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join)
vectors = st.tuples(*[st.integers(-3, 3)] * 3).filter(any)


@st.composite
def cards(draw):
    body = {
        "name": draw(st.sampled_from([f"agent-{i}" for i in range(12)])),
        "description": draw(texts),
        "tags": draw(st.lists(st.sampled_from(["red", "blue"]), max_size=2)),
        "skills": draw(st.lists(st.sampled_from(WORDS), max_size=2)),
    }
    return parse_card(body), draw(st.none() | vectors), draw(st.sampled_from([0, 50, 150]))


questions = st.fixed_dictionaries(
    {
        "text": texts
        | st.sampled_from(['"ocr scan"', "trans*", '"scan ocr" inv*', "agent", "翻译"]),
        "vector": st.just(()) | vectors,
        "condition": st.sampled_from(
            [None, {"tags": "red"}, {"not": {"tags": ["red"], "name": "agent-1"}}, {"skills": "a"}]
        ),
        "limit": st.integers(1, 4),
        "page": st.integers(1, 4),
        "now_ms": st.sampled_from([0, 100]),
    }
)


def spread(registrations, shards):
    """The last registration of each name, put where its name belongs, among others' leftovers."""
    indexes = [new_index() for _ in range(shards)]
    for card, vector, expires_ms in registrations:
        codes = {TINY: code(*vector)} if vector else {}
        indexes[sum(card.name.encode()) % shards].put(card, codes, expires_ms)
    return indexes


@settings(max_examples=300, deadline=None)
@given(st.lists(cards(), max_size=25), questions, st.integers(2, 5), st.randoms())
def test_answers_do_not_depend_on_order_or_shards(registrations, question, shards, chance):
    one = spread(registrations, 1)
    last = {card.name: (card, vector, expires) for card, vector, expires in registrations}
    shuffled = list(last.values())
    chance.shuffle(shuffled)
    many = spread(shuffled, shards)
    for index in chance.sample(many, k=1):
        index.put(parse_card({"name": "visitor", "description": "ocr ocr"}), {TINY: code(1, 1, 1)})
        index.remove("visitor")
        index.compact()
    assert ask(many, exact=True, **question) == ask(one, exact=True, **question)


@settings(max_examples=100, deadline=None)
@given(st.lists(cards(), max_size=25), questions)
def test_pages_put_together_are_the_whole_list_once(registrations, question):
    index = spread(registrations, 1)
    question = {**question, "limit": 100, "page": 1}
    whole = ask(index, **question)
    pages = [ask(index, **{**question, "limit": 3, "page": page}).hits for page in range(1, 6)]
    assert tuple(hit for page in pages for hit in page) == whole.hits
    assert len(whole.hits) == whole.total
    assert len({hit.name for hit in whole.hits}) == len(whole.hits)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_harms_the_index_or_a_question(text, question):
    index = new_index()
    index.put(parse_card({"name": "a", "description": text}), {})
    page = ask([index], question or "x")
    assert page.total in {0, 1}
    assert ask([index], "a").total == 1
