import numpy as np
import orjson
import pytest

from mq9cluster.domain.errors import EmbedderMismatch, InvalidField
from mq9cluster.search import lexical
from mq9cluster.search.filter import NOT_DEPTH_MAX, parse_filter
from mq9cluster.search.query import (
    Answer,
    Question,
    Ranked,
    Statistics,
    Unit,
    answer_from_wire,
    question_from_wire,
    statistics_from_wire,
    to_wire,
)
from mq9cluster.search.ranking import Hit, Page, depth_of, merge
from mq9cluster.search.vectors import quantize
from tests.unit.search.support import TINY, ask, card, code, names, new_index


def filled(*cards):
    index = new_index()
    for one in cards:
        index.put(one, {})
    return index


# ---- text


def test_the_name_and_tags_weigh_more_than_the_description():
    index = filled(
        card("a", "reads an invoice among many other papers on the desk"),
        card("b", "other papers", tags=["invoice"]),
        card("invoice", "papers"),
        card("d", "papers"),
    )
    assert names(ask([index], "invoice")) == ["invoice", "b", "a"]


def test_a_rare_word_weighs_more_than_a_common_one():
    common = [card(f"c{i}", "common") for i in range(10)]
    assert names(ask([filled(*common, card("r", "rare"))], "common rare"))[0] == "r"


def test_a_phrase_is_found_only_in_order_and_within_a_field():
    index = filled(
        card("a", "text to speech"),
        card("b", "speech to text"),
        card("c", "text", tags=["to", "speech"]),
        card("d", "a text to speech engine"),
    )
    assert set(names(ask([index], '"text to speech"'))) == {"a", "d"}


def test_a_prefix_finds_every_word_that_begins_so():
    index = filled(card("a", "translator"), card("b", "transport"), card("c", "train"))
    assert set(names(ask([index], "trans*"))) == {"a", "b"}
    assert set(names(ask([index], "translations*"))) == {"a"}


def test_accents_and_case_do_not_matter():
    assert names(ask([filled(card("a", "Météo à Paris"))], "METEO")) == ["a"]


def test_chinese_is_found_inside_of_longer_text():
    index = filled(card("a", "智能合同审查助手"), card("b", "合理同意"))
    assert names(ask([index], "合同审查")) == ["a"]


def test_words_of_nobody_find_nobody():
    assert ask([filled(card("a", "x"))], "zebra").total == 0
    assert ask([new_index()], 'zebra "a b" zeb*').total == 0


def test_a_card_registered_again_replaces_the_old_one():
    index = filled(card("a", "old words"), card("b", "old"))
    index.put(card("a", "new"), {})
    assert names(ask([index], "old")) == ["b"]
    assert names(ask([index], "words")) == []
    assert names(ask([index], "new")) == ["a"]
    assert len(index) == 2


def test_statistics_count_registered_agents_once():
    index = filled(card("a", "x y"), card("b", "x"))
    index.put(card("a", "x y"), {})
    index.remove("b")
    question = Question(units=(Unit(0, ("x",)), Unit(2, ("x", "y")), Unit(1, ("x",))))
    assert index.statistics(question) == Statistics(1, (1, 1, 1))


def test_scores_do_not_depend_on_what_was_there_before():
    fresh = filled(card("a", "ocr scan"), card("b", "scan"))
    churned = filled(card("c", "scan scan"), card("b", "ocr"), card("a", "ocr scan"))
    churned.remove("c")
    churned.put(card("b", "scan"), {})
    assert ask([churned], "ocr scan") == ask([fresh], "ocr scan")
    churned.compact()
    assert ask([churned], "ocr scan") == ask([fresh], "ocr scan")


def test_compaction_keeps_phrases_prefixes_filters_vectors_and_expiry():
    index = new_index()
    for i in range(20):
        index.put(
            card(f"a{i}", f"number word{i} here", tags=[f"t{i}"]),
            {TINY: code(i, 1, 0)},
            expires_ms=1_000 + i,
        )
    for i in range(0, 20, 2):
        index.remove(f"a{i}")
    questions = [
        {"text": '"word7 here"'},
        {"text": "word1*"},
        {"vector": (3, 1, 0)},
        {"condition": {"tags": ["t3", "t4"]}},
        {"now_ms": 1_010},
    ]
    before = [ask([index], **question) for question in questions]
    index.compact()
    assert [ask([index], **question) for question in questions] == before
    assert names(before[0]) == ["a7"]
    assert names(before[3]) == ["a3"]
    assert before[4].total == 5


def test_removed_slots_are_given_back_by_themselves():
    index = new_index()
    for i in range(5_000):
        index.put(card("same", f"version {i}"), {TINY: code(1, i, 0)})
    assert len(index._names) <= 1_026
    assert names(ask([index], "4999")) == ["same"]


# ---- names, filters, expiry


def test_without_a_question_all_are_listed_by_name_in_stable_pages():
    shards = [filled(card("d"), card("a")), filled(card("c"), card("b"), card("e"))]
    assert [names(ask(shards, limit=2, page=page)) for page in (1, 2, 3, 4)] == [
        ["a", "b"],
        ["c", "d"],
        ["e"],
        [],
    ]
    assert ask(shards).total == 5


CARDS = (
    card("ocr.one", "x", tags=["fast"], version="1", provider={"organization": "Acme"}),
    card("ocr.two", "x", version="2", skills=[{"id": "s1", "name": "Scan", "tags": ["slow"]}]),
    card("tts", "x", tags=["fast", "slow"], skills=["Scan"]),
)


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ({"name": "ocr."}, ["ocr.one", "ocr.two"]),
        ({"name": ["ocr.o", "tt"]}, ["ocr.one", "tts"]),
        ({"tags": "fast"}, ["ocr.one", "tts"]),
        ({"tags": ["slow"]}, ["ocr.two", "tts"]),
        ({"tags": "Fast"}, []),
        ({"skills": "s1"}, ["ocr.two"]),
        ({"skills": "Scan"}, ["ocr.two", "tts"]),
        ({"provider": "Acme"}, ["ocr.one"]),
        ({"version": ["1", "2"]}, ["ocr.one", "ocr.two"]),
        ({"tags": "fast", "name": "ocr"}, ["ocr.one"]),
        ({"not": {"tags": "slow"}}, ["ocr.one"]),
        ({"tags": "fast", "not": {"skills": "Scan", "not": {"version": "9"}}}, ["ocr.one"]),
        ({"not": {"not": {"name": "tts"}}}, ["tts"]),
        ({"tags": None}, ["ocr.one", "ocr.two", "tts"]),
        ({}, ["ocr.one", "ocr.two", "tts"]),
    ],
)
def test_a_filter_leaves_those_of_which_all_conditions_hold(condition, found):
    assert names(ask([filled(*CARDS)], condition=condition)) == found
    assert sorted(names(ask([filled(*CARDS)], "x", condition=condition))) == found


@pytest.mark.parametrize(
    "raw",
    [
        [],
        "tags",
        {"tag": "x"},
        {"tags": 1},
        {"tags": [1]},
        {"tags": []},
        {"tags": ["x"] * 65},
        {"tags": ""},
        {"not": 1},
        {"not": {"nope": 1}},
    ],
)
def test_a_malformed_filter_is_refused(raw):
    with pytest.raises(InvalidField, match="invalid filter: "):
        parse_filter(raw)


def test_a_filter_of_too_many_nots_is_refused():
    raw = {"tags": "x"}
    for _ in range(NOT_DEPTH_MAX + 1):
        raw = {"not": raw}
    with pytest.raises(InvalidField, match="nots"):
        parse_filter(raw)


def test_agents_that_have_not_reported_in_time_are_found_only_when_asked():
    index = new_index()
    index.put(card("a", "x"), {}, expires_ms=1_000)
    index.put(card("b", "x"), {}, expires_ms=0)
    assert names(ask([index], "x", now_ms=999)) == ["a", "b"]
    assert names(ask([index], "x", now_ms=1_000)) == ["b"]
    assert index.seen("a", 2_000)
    assert names(ask([index], "x", now_ms=1_000)) == ["a", "b"]
    assert names(ask([index], "x", now_ms=9_000)) == ["b"]
    assert names(ask([index], "x", now_ms=0)) == ["a", "b"]


def test_what_is_not_there_cannot_be_removed_or_seen():
    index = new_index()
    assert (index.remove("a"), index.seen("a", 1), index.put_code("a", TINY, code(1, 0, 0))) == (
        False,
        False,
        False,
    )


# ---- vectors, modes, merging


def with_vectors():
    index = new_index()
    index.put(card("east", "word"), {TINY: code(1, 0, 0)})
    index.put(card("north", "word word"), {TINY: code(0, 1, 0)})
    index.put(card("west", "other"), {TINY: code(-1, 0, 0)})
    index.put(card("pending", "other"), {})
    return index


def test_a_vector_finds_by_cosine_and_nothing_behind_it():
    page = ask([with_vectors()], vector=(1, 1, 0))
    assert names(page) == ["east", "north"]
    assert page.hits[0].score == pytest.approx(2**-0.5, abs=0.01)


def test_a_minimum_score_cuts_hits_and_total():
    page = ask([with_vectors()], vector=(1, 0.2, 0), min_score=0.9)
    assert (names(page), page.total) == (["east"], 1)


def test_a_cosine_below_the_floor_of_the_embedder_is_no_hit():
    index = with_vectors()
    assert names(ask([index], "word", vector=(1, 0.2, 0), floor=0.5)) == ["east", "north"]
    assert names(ask([index], vector=(1, 0.2, 0), floor=0.5)) == ["east"]
    assert names(ask([index], "word", floor=99.0)) == ["north", "east"]


def test_a_code_that_comes_later_is_found():
    index = with_vectors()
    assert index.missing_codes(TINY) == ["pending"]
    assert index.put_code("pending", TINY, code(1, 0.1, 0))
    assert index.missing_codes(TINY) == []
    assert names(ask([index], vector=(1, 0.1, 0)))[0] == "pending"


def test_hybrid_puts_first_what_both_rankings_find():
    index = with_vectors()
    page = ask([index], "word", vector=(0, 1, 0.1))
    assert names(page) == ["north", "east"]
    assert page.hits[0].score == pytest.approx(1.0, abs=0.2)
    assert [by for by, _ in page.hits[0].scores] == ["text", TINY]


def test_ties_are_broken_by_name_also_at_the_cut():
    index = new_index()
    for name in "hcgafbed":
        index.put(card(f"agent {name}", "same"), {TINY: code(1, 0, 0)})
    for question in ({"text": "same"}, {"vector": (1, 0, 0)}):
        pages = [names(ask([index], **question, limit=3, page=p, depth=3 * p)) for p in (1, 2, 3)]
        found = [name for page in pages for name in page]
        assert found == [f"agent {name}" for name in "abcdefgh"]


@pytest.mark.parametrize(
    ("vector", "error"),
    [
        ([1.0, 2.0], EmbedderMismatch),
        ([1.0] * 4, EmbedderMismatch),
        ([0.0, 0, -0.0], InvalidField),
        ([float("nan"), 0, 1], InvalidField),
        ([float("inf"), 0, 1], InvalidField),
        ([10**400, 0, 1], InvalidField),
        (["1", 0, 1], InvalidField),
        ([True, 0, 1], InvalidField),
        ([[1], [2], [3]], InvalidField),
        ("abc", InvalidField),
        (None, InvalidField),
        ({"a": 1}, InvalidField),
        (np.zeros((3, 1)), InvalidField),
    ],
)
def test_rubbish_for_a_vector_is_refused(vector, error):
    with pytest.raises(error):
        quantize(vector, 3)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300, 10**30])
def test_only_the_direction_of_a_vector_counts(scale):
    assert quantize([3 * scale, 4 * scale, 0], 3) == np.array([76, 102, 0], np.int8).tobytes()


def test_a_code_of_another_embedder_changes_nothing():
    index = new_index()
    for codes in ({"other": b"abc"}, {TINY: b"ab"}):
        with pytest.raises(EmbedderMismatch):
            index.put(card("a", "x"), codes)
    with pytest.raises(EmbedderMismatch):
        index.search(Question(vectors=((TINY, b"abcd"),)), Statistics(0, ()))
    with pytest.raises(EmbedderMismatch):
        index.put_code("a", "other", b"abc")
    assert len(index) == 0


def test_a_shard_without_any_vector_of_an_embedder_finds_nothing_by_it():
    index = with_vectors()
    assert index.search(Question(vectors=(("other", b"ab"),)), Statistics(0, ())) == Answer(
        (("other", Ranked((), 0)),)
    )
    assert index.missing_count("other") == 4
    assert index.missing_codes("other") == ["east", "north", "pending", "west"]


def test_another_embedder_stands_in_for_agents_whose_vector_is_still_to_come():
    index = new_index()
    index.add_embedder("model", 2)
    index.put(card("both", "x"), {TINY: code(1, 0, 0), "model": code(0.6, 0.8)})
    index.put(card("near", "x"), {TINY: code(3, 1, 0)})
    index.put(card("far", "x"), {TINY: code(0.05, 1, 0)})
    question = Question(
        vectors=(("model", code(1, 0)),), stand_in=(TINY, code(1, 0, 0), 0.1), depth=10
    )
    page = merge(question, [index.search(question, Statistics(0, ()))], 10)
    assert names(page) == ["near", "both"]
    assert [round(hit.score, 1) for hit in page.hits] == [0.9, 0.6]
    assert page.total == 2
    index.put_code("near", "model", code(0, 1))
    page = merge(question, [index.search(question, Statistics(0, ()))], 10)
    assert names(page) == ["both"]


def test_a_second_embedder_lives_beside_the_first_until_it_takes_over():
    index = with_vectors()
    index.add_embedder("new", 2, 100)
    assert index.missing_codes("new") == ["east", "north", "pending", "west"]
    index.put_code("west", "new", code(1, 0))
    index.drop_embedder(TINY)
    page = merge(
        question := Question(vectors=(("new", code(1, 0)),)),
        [index.search(question, Statistics(0, ()))],
        10,
    )
    assert names(page) == ["west"]


def over_the_wire(message):
    return orjson.loads(orjson.dumps(to_wire(message)))


def test_messages_survive_the_wire():
    question = Question(
        units=(Unit(2, ("a", "b")),),
        vectors=((TINY, code(1, -1, 0.5)),),
        filter=parse_filter({"tags": ["x"], "not": {"name": "y"}}),
        now_ms=7,
        depth=3,
        min_score=0.25,
        floor=0.125,
        exact=True,
        stand_in=("other", code(0, 1), 0.5),
    )
    assert question_from_wire(over_the_wire(question)) == question
    by_name = Question(by_name=True)
    assert question_from_wire(over_the_wire(by_name)) == by_name
    statistics = Statistics(3, (1, 2))
    assert statistics_from_wire(over_the_wire(statistics)) == statistics
    answer = Answer((("text", Ranked((("ä", 1.5),), 9)), (TINY, Ranked((), 0))))
    assert answer_from_wire(over_the_wire(answer)) == answer


def test_a_missing_shard_leaves_the_others_in_order():
    question = Question(units=(Unit(0, ("x",)),), depth=10)
    one = Answer((("text", Ranked((("b", 2.0), ("d", 1.0)), 2)),))
    two = Answer((("text", Ranked((("a", 2.0), ("c", 1.5)), 5)),))
    assert names(merge(question, [one, two], 3)) == ["a", "b", "c"]
    assert merge(question, [one, two], 3).total == 7
    assert merge(question, [], 3) == Page((), 0)
    assert merge(question, [one], 1) == Page((Hit("b", 2.0, (("text", 2.0),)),), 2)


def test_a_fused_order_is_read_to_the_same_depth_for_every_page():
    assert depth_of(20, 1, rankings=2) == depth_of(20, 30, rankings=2) == 200
    assert depth_of(500, 1, rankings=2) == 500
    assert depth_of(20, 3, rankings=1) == 60
    assert depth_of(1_000, 10_000, rankings=1) == 10_000


def test_cards_that_came_together_weigh_what_they_weigh_one_by_one(monkeypatch):
    cards = [
        card(f"a{n % 150}", " ".join(["ocr", "scan", f"w{n % 7}", "ocr"][: n % 5]), tags=["ocr"])
        for n in range(2 * lexical.NEW_DOCUMENTS_MAX + 70)
    ]
    together = filled(*cards)
    monkeypatch.setattr(lexical, "NEW_DOCUMENTS_MAX", 1)
    one_by_one = filled(*cards)
    for text in ("ocr scan", '"scan w3"', "w*", "w6"):
        assert ask([together], text, limit=100) == ask([one_by_one], text, limit=100)


def test_text_with_the_mark_between_fields_in_it_stays_within_its_field():
    index = filled(card("a", "one\0two"), card("b", "one", tags=["two"]))
    assert names(ask([index], '"one two"')) == ["a"]
