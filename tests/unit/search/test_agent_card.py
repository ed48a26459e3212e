import orjson
import pytest

from mq9cluster.domain.agent import (
    CARD_BYTES_MAX,
    CARD_DEPTH_MAX,
    SEARCH_CHARS_MAX,
    SKILLS_MAX,
    Skill,
    parse_card,
    parse_mailbox,
)
from mq9cluster.domain.errors import InvalidField, InvalidMailAddress, InvalidRequest

A2A = {
    "name": "polyglot",
    "description": "Translates documents.",
    "url": "mq9://broker.example/agents.polyglot",
    "version": "2.1.0",
    "provider": {"organization": "Lingua Works", "url": "https://example.com"},
    "defaultInputModes": ["text/plain"],
    "skills": [
        {
            "id": "translate-text",
            "name": "Text translation",
            "description": "From one language to another",
            "tags": ["translation", "language"],
            "examples": ["Translate this contract"],
        }
    ],
}


def nested(depth):
    value = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_an_a2a_card_is_read_field_by_field():
    card = parse_card(A2A)
    assert card.name == "polyglot"
    assert card.mailbox == "agents.polyglot"
    assert card.version == "2.1.0"
    assert card.provider == "Lingua Works"
    assert card.description == "Translates documents."
    assert card.skills == (
        Skill(
            "translate-text",
            "Text translation",
            "From one language to another",
            ("translation", "language"),
            ("Translate this contract",),
        ),
    )
    assert card.all_tags() == {"translation", "language"}
    assert card.ttl_s is None


def test_the_body_is_the_registered_object_without_mq9():
    card = parse_card({**A2A, "_mq9": {"score": 1}, "extra": [1, {"b": None}]})
    assert orjson.loads(card.body) == {**A2A, "extra": [1, {"b": None}]}


def test_a_plain_card_is_found_by_every_string_of_its_payload():
    card = parse_card(
        {"name": "a", "mailbox": "mq9://h:4222/a.b", "payload": {"does": ["ocr", {"x": "scan"}]}}
    )
    assert card.mailbox == "a.b"
    assert card.description == "ocr\nscan"


def test_skills_may_be_plain_names():
    assert parse_card({"name": "a", "skills": ["ocr"]}).skills == (Skill("ocr", "ocr", "", (), ()),)


def test_other_urls_are_no_mailboxes():
    assert parse_card({"name": "a", "url": "https://example.com/a"}).mailbox is None


@pytest.mark.parametrize("raw", ["a.b", "mq9://broker/a.b", "mq9://broker:4222/a.b", "mq9:///a.b"])
def test_both_forms_of_a_mailbox_are_the_same_address(raw):
    assert parse_mailbox(raw) == "a.b"


@pytest.mark.parametrize(
    "raw", ["", "mq9://", "mq9://broker", "mq9://broker/", "mq9://b/A", "mq9://b/a/c", "x_y"]
)
def test_what_is_no_mailbox_is_refused(raw):
    with pytest.raises(InvalidMailAddress):
        parse_mailbox(raw)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ({}, InvalidField("name", "required")),
        ({"name": None}, InvalidField("name", "required")),
        ({"name": 7}, InvalidField("name", "must be a string")),
        ({"name": ""}, InvalidField("name", "must have 1 to 256 bytes")),
        ({"name": "ü" * 129}, InvalidField("name", "must have 1 to 256 bytes")),
        ({"name": "a\nb"}, InvalidField("name", "control characters are not allowed")),
        ({"name": "a\x85"}, InvalidField("name", "control characters are not allowed")),
        ({"name": "a", "mailbox": 1}, InvalidField("mailbox", "must be a string")),
        ({"name": "a", "ttl": True}, InvalidField("ttl", "must be an integer")),
        ({"name": "a", "ttl": 1.0}, InvalidField("ttl", "must be an integer")),
        ({"name": "a", "ttl": -1}, InvalidField("ttl", "must be 0 to 315360000 seconds")),
        ({"name": "a", "tags": "x"}, InvalidField("tags", "must be a list of strings")),
        ({"name": "a", "tags": ["x"] * 33}, InvalidField("tags", "more than 32")),
        ({"name": "a", "tags": [""]}, InvalidField("tags", "must have 1 to 256 bytes")),
        ({"name": "a", "skills": {}}, InvalidField("skills", "must be a list")),
        (
            {"name": "a", "skills": [1]},
            InvalidField("skills", "each must be an object or a string"),
        ),
        (
            {"name": "a", "skills": ["x"] * (SKILLS_MAX + 1)},
            InvalidField("skills", f"more than {SKILLS_MAX}"),
        ),
        (
            {"name": "a", "skills": [{"name": "x", "examples": "no list"}]},
            InvalidField("skills", "examples must be a list of at most 64"),
        ),
        ({"name": "a", "description": []}, InvalidField("description", "must be a string")),
        (
            {"name": "a", "provider": {"organization": 1}},
            InvalidField("provider", "must be a string"),
        ),
        ({"name": "a", "version": True}, InvalidField("version", "must be a string")),
    ],
)
def test_a_malformed_card_is_refused_by_the_field(body, error):
    with pytest.raises(type(error)) as caught:
        parse_card(body)
    assert caught.value == error


def test_a_huge_card_is_refused_by_its_bytes():
    fits = {"name": "a", "payload": "x" * (CARD_BYTES_MAX - len('{"name":"a","payload":""}'))}
    assert len(parse_card(fits).body) == CARD_BYTES_MAX
    with pytest.raises(InvalidRequest, match=f"this has {CARD_BYTES_MAX + 1}"):
        parse_card({**fits, "payload": fits["payload"] + "x"})


def test_a_deep_card_is_refused_without_recursion():
    assert parse_card({"name": "a", "payload": nested(CARD_DEPTH_MAX - 1)}).name == "a"
    for depth in (CARD_DEPTH_MAX, 100_000):
        with pytest.raises(InvalidRequest, match="nested deeper than"):
            parse_card({"name": "a", "payload": nested(depth)})


def test_only_so_much_of_a_card_is_searched():
    text = parse_card(
        {
            "name": "a" * 100,
            "description": "x" * 20_000,
            "skills": [{"id": "s", "name": "y" * 20_000, "tags": ["t" * 200]}],
        }
    ).search_text()
    size = sum(map(len, [text.name, text.description, *text.tags, *text.skills, *text.examples]))
    assert size <= SEARCH_CHARS_MAX + 2  # the joints between fields
    assert text.tags == ("t" * 200,)
