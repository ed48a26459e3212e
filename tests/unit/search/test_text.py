import pytest

from mq9cluster.search.query import PHRASE, PREFIX, UNITS_MAX, WORD, Unit, parse_units
from mq9cluster.search.text import END_OF_FIELD, Analyzer, runs

analyzer = Analyzer(frozenset({"the", "a"}))


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Translating TRANSLATIONS", ["translat", "translat"]),
        ("ﬁle Ⅳ \uff21\uff22\uff23", ["file", "iv", "abc"]),
        ("Übersetzung résumé", ["ubersetzung", "resum"]),
        ("合同审查", ["合同", "同审", "审查"]),
        ("税", ["税"]),
        ("PDFを翻訳", ["pdf", "を翻", "翻訳"]),
        ("번역 도우미", ["번역", "도우", "우미"]),
        ("snake_case kebab-case a.b", ["snake", "case", "kebab", "case", "a", "b"]),
        ("!!! \x00 — ''", []),
        ("", []),
    ],
)
def test_text_becomes_terms(text, terms):
    assert analyzer.terms(text) == terms


def test_a_name_is_split_where_camel_case_does():
    assert analyzer.name_terms("InvoiceBot") == ["invoicebot", "invoic", "bot"]


@pytest.mark.parametrize(
    ("text", "units"),
    [
        ("code reviews", (Unit(WORD, ("code",)), Unit(WORD, ("review",)))),
        ('"code reviews"', (Unit(PHRASE, ("code", "review")),)),
        ('"code', (Unit(WORD, ("code",)),)),
        ("transl*", (Unit(PREFIX, ("transl",)),)),
        ("translations*", (Unit(PREFIX, ("translations", "translat")),)),
        ("ab*", (Unit(WORD, ("ab",)),)),
        ("the code", (Unit(WORD, ("code",)),)),
        ("the", (Unit(WORD, ("the",)),)),
        ("the a", (Unit(WORD, ("the",)), Unit(WORD, ("a",)))),
        ('""', ()),
        ("code code", (Unit(WORD, ("code",)),)),
    ],
)
def test_a_question_becomes_units(text, units):
    assert parse_units(text, analyzer) == units


@pytest.mark.parametrize(
    "text",
    [
        "name:x OR NOT NEAR(a b, 3)",
        "'; drop table agents; --",
        '"unbalanced AND (',
        "* ^ - + ~ { } [ ] \\",
        "a\x00b",
        "-exclude +must",
    ],
)
def test_query_syntax_of_other_engines_is_only_words(text):
    assert all(unit.kind in {WORD, PHRASE} for unit in parse_units(text, analyzer))
    assert all(term.isalnum() for unit in parse_units(text, analyzer) for term in unit.terms)


def test_a_long_question_is_cut():
    assert len(parse_units(" ".join(f"w{i}" for i in range(500)), analyzer)) == UNITS_MAX


def test_ascii_is_cut_into_the_same_runs_as_other_text() -> None:
    """ASCII has a shorter way; with a word of other characters behind it text goes the long way."""
    for char in map(chr, range(128)):
        text = f"Ab{char}C1{char}{char}d_e{char}"
        assert [*runs(text), "é"] == runs(f"{text} é"), repr(char)
        fields = [text, char, "", f"{char}x"]
        apart = [term for field in fields for term in (*Analyzer().terms(field), END_OF_FIELD)]
        assert Analyzer().fields(fields) == apart, repr(char)
