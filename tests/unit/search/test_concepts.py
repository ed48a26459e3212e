from pathlib import Path

import numpy as np
import orjson
import pytest

from mq9cluster.search.concepts import (
    _WORD_FEATURES,
    DIMENSIONS,
    WORDS_CACHED_MAX,
    ConceptEmbedder,
    _digest,
    _hashed,
    _number_code,
)
from mq9cluster.search.explain import Explainer, Matched
from mq9cluster.search.lexicon import LexiconError, load_lexicon
from mq9cluster.search.query import parse_units
from mq9cluster.search.text import Analyzer
from mq9cluster.search.vectors import quantize
from tests.unit.search.support import card

AGENTS = Path(__file__).parents[2] / "quality" / "agents.jsonl"
CLOSE, FAR = 0.7, 0.2
FILES = {
    "words.toml": 'en = "the a of to who my"\ngeneric = "help"\n',
    "money.toml": """
[fraud]
en = "fraud, stolen cards, ~radar"
de = "Betrug, Karten"
zh = "欺诈, 信用卡 盗刷"
near = "payment"
[payment]
en = "payment"
de = "Zahlung"
es = "pago"
[restaurant]
en = "restaurant"
[backup]
en = "backup"
es = "restaurar"
""",
}


@pytest.fixture
def lexicon_dir(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def embedder(lexicon_dir):
    return ConceptEmbedder(load_lexicon(lexicon_dir))


def cosine(a, b):
    x, y = (np.frombuffer(code, np.int8).astype(float) for code in (a, b))
    return x @ y / np.sqrt((x @ x) * (y @ y))


@pytest.mark.parametrize(
    ("text", "concepts"),
    [
        ("Payments", ("payment",)),
        ("who stole my cards", ()),
        ("stolen credit cards", ("fraud",)),
        ("cards possibly stolen", ("fraud",)),
        ("stolen a b c d e f g h cards", ()),
        ("Betrugserkennung", ()),
        ("Kartenzahlungen", ("fraud", "payment")),
        ("los pagos", ("payment",)),
        ("这是欺诈吗", ("fraud",)),
        ("信用卡被盗刷", ("fraud",)),
        ("盗刷", ()),
        ("restaurants", ("restaurant",)),
        ("restaurar", ("backup",)),
        ("the of", ()),
        ("", ()),
    ],
)
def test_concepts_are_read_in_every_language(embedder, text, concepts):
    assert tuple(sorted(embedder.concepts(text))) == concepts


def test_the_same_concept_in_two_languages_is_close_and_another_is_not(embedder):
    german, chinese, other = map(embedder.question_code, ("Betrug", "欺诈", "backup"))
    assert cosine(german, chinese) > CLOSE
    assert abs(cosine(german, other)) < FAR


def test_a_weak_word_is_weaker_evidence(embedder):
    question = embedder.question_code("fraud")
    strong, weak = (
        embedder.card_code(card("x", text)) for text in ("fraud backup", "radar backup")
    )
    assert cosine(question, strong) > cosine(question, weak) > FAR


def test_a_near_concept_is_found_when_nothing_else_is(embedder):
    question = embedder.question_code("fraud")
    near, far = (embedder.card_code(card("x", text)) for text in ("payment", "backup"))
    assert cosine(question, near) > cosine(question, far) + 0.1


def test_words_outside_the_lexicon_are_compared_by_spelling(embedder):
    question = embedder.question_code("tomatoes")
    same, similar, other = (
        embedder.card_code(card("x", text)) for text in ("tomatoes", "tomatillos", "zebra")
    )
    assert cosine(question, same) > cosine(question, similar) > cosine(question, other)


def test_without_a_word_there_is_no_vector(embedder):
    assert embedder.question_code("?! \x00") is None
    assert embedder.card_code(card("!!!")) is None


def test_embedding_forgets_nothing_when_its_caches_are_full(embedder):
    before = embedder.question_code("fraud tomatoes")
    for start in range(0, 80_000, 500):
        embedder.question_code(" ".join(f"word{i}" for i in range(start, start + 500)))
    assert embedder.question_code("fraud tomatoes") == before
    assert len(embedder._young) + len(embedder._old) <= 2 * WORDS_CACHED_MAX


def test_the_id_changes_with_the_lexicon(lexicon_dir, embedder):
    assert ConceptEmbedder(load_lexicon(lexicon_dir)).id == embedder.id
    (lexicon_dir / "more.toml").write_text('[more]\nen = "more"\n')
    assert ConceptEmbedder(load_lexicon(lexicon_dir)).id != embedder.id
    assert embedder.id.dimensions == DIMENSIONS


@pytest.mark.parametrize(
    "text",
    [
        "[x",
        '[fraud]\nen = "again"',
        '[x]\nen = "y"\nnear = "nobody"',
        '[x]\nfi = "sana"',
        "[x]\nen = 1",
        '[x]\nen = " , "',
        'x = "y"',
    ],
)
def test_a_lexicon_that_cannot_be_meant_is_refused(lexicon_dir, text):
    (lexicon_dir / "zz.toml").write_text(text)
    with pytest.raises(LexiconError):
        load_lexicon(lexicon_dir)


def test_every_alias_of_the_real_lexicon_leads_to_its_concept():
    lexicon = load_lexicon()
    embedder = ConceptEmbedder(lexicon)
    lost = [
        (concept.id, alias.phrase)
        for concept in lexicon.concepts
        for alias in concept.aliases
        if concept.id not in embedder.concepts(alias.phrase)
    ]
    assert lost == []


def test_concepts_that_a_text_shares_are_those_of_the_question_that_it_has():
    embedder = ConceptEmbedder(load_lexicon())
    texts = [
        orjson.loads(line).get("description", "") for line in AGENTS.read_text().splitlines()[:60]
    ]
    asked = [embedder.concepts(text) for text in texts]
    assert any(asked)
    for text in texts:
        mine = set(embedder.concepts(text))
        for concepts in asked:
            expected = [concept for concept in concepts if concept in mine]
            assert embedder.shared(text, concepts) == expected


def test_a_hit_is_explained_by_terms_concepts_and_skill(embedder):
    analyzer = Analyzer()
    explainer = Explainer(analyzer, embedder)
    found = card(
        "radar",
        "Watches card payments",
        skills=[
            {"id": "s1", "name": "Reports", "tags": ["pdf"]},
            {"id": "s2", "name": "Fraud detection", "tags": ["Betrug"]},
        ],
    )
    text = 'detect* "card payments" fraud zebra'
    matched = explainer.explain(found, parse_units(text, analyzer), embedder.concepts(text))
    assert matched == Matched(("detect*", "card payment", "fraud"), ("fraud", "payment"), "s2")
    assert explainer.explain(card("x", "y"), parse_units("z", analyzer), ()) == Matched(
        (), (), None
    )


def test_the_code_of_a_number_is_that_of_its_hashed_vector():
    for number in range(2_000):  # among them some of which two features share a place
        word = str(number)
        features = _hashed(_digest(word, _WORD_FEATURES), _WORD_FEATURES)
        assert _number_code(word) == quantize(features, DIMENSIONS)
