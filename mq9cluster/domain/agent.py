"""Agent cards: what an agent says about itself, checked once at the edge and trusted after.

A card is a plain `{"name", "mailbox", "payload", …}` object or an A2A AgentCard; the object itself
is what DISCOVER hands out again, the fields here are what it is found by. Parsed by the broker for
REGISTER, read by search. Source: docs/protocol.md, section 4, and the A2A AgentCard.
"""

from collections.abc import Iterator, Mapping
from hashlib import blake2b
from typing import NamedTuple

import orjson

from mq9cluster.domain.address import MailAddress, parse_address
from mq9cluster.domain.errors import InvalidField, InvalidMailAddress, InvalidRequest
from mq9cluster.domain.limits import (
    NAME_BYTES_MAX,
    REQUEST_BYTES_MAX,
    TAGS_MAX,
    TTL_SECONDS_MAX,
)

CARD_BYTES_MAX = REQUEST_BYTES_MAX  # as kept: numbers may have become longer than as sent
CARD_DEPTH_MAX = 32  # deeper than any card of use; readers recurse
SKILLS_MAX = 128  # each is a facet and text of its own
EXAMPLES_MAX = 64
SEARCH_CHARS_MAX = 16_384  # what is indexed of one card; the rest is kept but not searched
AGENT_TTL_S_DEFAULT = 300

_SCHEME = "mq9://"


class Skill(NamedTuple):
    """One thing an agent can do."""

    id: str
    name: str
    description: str
    tags: tuple[str, ...]
    examples: tuple[str, ...]


class SearchText(NamedTuple):
    """The searchable text of a card, by field: the fields weigh differently."""

    name: str
    tags: tuple[str, ...]
    skills: tuple[str, ...]
    description: str
    examples: tuple[str, ...]
    provider: str


class AgentCard(NamedTuple):
    """A checked card. `body` is the registered object as JSON, without `_mq9`."""

    name: str
    mailbox: MailAddress | None
    ttl_s: int | None  # None: as configured; 0: never
    version: str
    provider: str
    description: str
    tags: tuple[str, ...]
    skills: tuple[Skill, ...]
    body: bytes

    def all_tags(self) -> frozenset[str]:
        """The card's own tags and those of its skills."""
        return frozenset(self._tags())

    def _tags(self) -> set[str]:
        tags = set(self.tags)
        for skill in self.skills:
            tags.update(skill.tags)
        return tags

    def search_text(self) -> SearchText:
        """What is indexed: at most SEARCH_CHARS_MAX characters over all fields."""
        if len(self.body) > SEARCH_CHARS_MAX:
            return self._cut_text()
        return SearchText(
            self.name,
            tuple(sorted(self._tags())),
            tuple(
                [
                    f"{name} {skill}" if name != skill else " " + skill
                    for skill, name, _, _, _ in self.skills
                ]
            ),
            "\n".join([self.description, *[s.description for s in self.skills if s.description]]),
            tuple([text for skill in self.skills for text in skill.examples]),
            self.provider,
        )

    def _cut_text(self) -> SearchText:
        """`search_text` of a card whose fields may have more characters than are indexed."""
        left = SEARCH_CHARS_MAX - len(self.name)

        def cut(text: str) -> str:
            nonlocal left
            taken = text[: max(left, 0)]
            left -= len(taken)
            return taken

        tags = tuple(cut(tag) for tag in sorted(self._tags()))
        skills = tuple(
            cut(skill.name if skill.name != skill.id else "") + " " + cut(skill.id)
            for skill in self.skills
        )
        provider = cut(self.provider)
        description = cut(self.description)
        details = [cut(skill.description) for skill in self.skills if skill.description]
        examples = tuple(cut(text) for skill in self.skills for text in skill.examples)
        return SearchText(
            self.name, tags, skills, "\n".join([description, *details]), examples, provider
        )


def parse_card(body: dict[str, object], encoded: bytes | None = None) -> AgentCard:
    """The card in a REGISTER body; InvalidField, InvalidRequest or InvalidMailAddress.

    `encoded`: of a card that was registered, whose bytes these are.
    """
    registered = body
    if "_mq9" in body:
        registered = {key: value for key, value in body.items() if key != "_mq9"}
    if encoded is None:
        encoded = _encode(registered)
    elif may_be_deep(encoded):
        check_depth(registered)
    get = registered.get
    return AgentCard(
        parse_name(get("name")),
        _mailbox(registered),
        _ttl(get("ttl")),
        _version(get("version")),
        _provider(get("provider")),
        _description(get("description"), get("payload")),
        parse_tags("tags", get("tags")),
        _skills(get("skills")),
        encoded,
    )


def _encode(registered: dict[str, object]) -> bytes:
    try:
        encoded = orjson.dumps(registered)
    except (orjson.JSONEncodeError, RecursionError) as error:
        check_depth(registered)
        raise InvalidRequest(f"not JSON: {error}") from error
    if may_be_deep(encoded):
        check_depth(registered)
    if len(encoded) > CARD_BYTES_MAX:
        raise InvalidRequest(f"a card may have {CARD_BYTES_MAX} bytes, this has {len(encoded)}")
    return encoded


def may_be_deep(encoded: bytes) -> bool:
    """Whether JSON opens so many brackets that `check_depth` has to look how they nest."""
    return encoded.count(b"{") + encoded.count(b"[") > CARD_DEPTH_MAX


def card_digest(body: bytes) -> bytes:
    """Tells a card from any other: what was embedded of one holds for no other."""
    return blake2b(body, digest_size=16).digest()


def parse_name(raw: object) -> str:
    """An agent's name: 1 to 256 bytes of UTF-8 without control characters."""
    if type(raw) is str and raw.isascii() and raw.isprintable() and 1 <= len(raw) <= NAME_BYTES_MAX:
        return raw  # as nearly all are
    if raw is None:
        raise InvalidField("name", "required")
    return _label("name", raw)


def parse_mailbox(raw: object) -> MailAddress:
    """The address in `address` or `mq9://<broker>/<address>`."""
    if not isinstance(raw, str):
        raise InvalidField("mailbox", "must be a string")
    if not raw.startswith(_SCHEME):
        return parse_address(raw)
    _, slash, address = raw[len(_SCHEME) :].partition("/")
    if not slash:
        raise InvalidMailAddress("mq9:// is followed by <broker>/<address>")
    return parse_address(address)


def parse_tags(field: str, raw: object) -> tuple[str, ...]:
    """Up to 32 tags, each a name; doubles are dropped."""
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise InvalidField(field, "must be a list of strings")
    if len(raw) > TAGS_MAX:
        raise InvalidField(field, f"more than {TAGS_MAX}")
    tags = [_label(field, tag) for tag in raw]
    return tuple(dict.fromkeys(tags)) if len(tags) > 1 else tuple(tags)


def _label(field: str, raw: object) -> str:
    if not isinstance(raw, str):
        raise InvalidField(field, "must be a string")
    if raw.isascii() and raw.isprintable() and 1 <= len(raw) <= NAME_BYTES_MAX:
        return raw
    try:
        size = len(raw.encode())
    except UnicodeEncodeError as error:
        raise InvalidField(field, "is not UTF-8") from error
    if not 1 <= size <= NAME_BYTES_MAX:
        raise InvalidField(field, f"must have 1 to {NAME_BYTES_MAX} bytes")
    if not raw.isprintable() and any(ord(char) < 0x20 or 0x7F <= ord(char) < 0xA0 for char in raw):
        raise InvalidField(field, "control characters are not allowed")
    return raw


def _mailbox(card: Mapping[str, object]) -> MailAddress | None:
    """`mailbox`, or an A2A `url` of the mq9 scheme; other URLs are no mailboxes."""
    raw = card.get("mailbox")
    if raw is not None:
        return parse_mailbox(raw)
    url = card.get("url")
    if isinstance(url, str) and url.startswith(_SCHEME):
        return parse_mailbox(url)
    return None


def _ttl(raw: object) -> int | None:
    if raw is None:
        return None
    if type(raw) is not int:
        raise InvalidField("ttl", "must be an integer")
    if not 0 <= raw <= TTL_SECONDS_MAX:
        raise InvalidField("ttl", f"must be 0 to {TTL_SECONDS_MAX} seconds")
    return raw


def _version(raw: object) -> str:
    if isinstance(raw, str):
        return raw
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return str(raw)
    return _text("version", raw)


def _provider(raw: object) -> str:
    if isinstance(raw, dict):
        return _text("provider", raw.get("organization"))
    return _text("provider", raw)


def _text(field: str, raw: object) -> str:
    if isinstance(raw, str):
        return raw
    if raw is None:
        return ""
    raise InvalidField(field, "must be a string")


def _description(raw: object, payload: object) -> str:
    """What the card says of itself, and all strings in a plain card's payload."""
    text = _text("description", raw)
    if payload is None:
        return text
    return "\n".join(filter(None, [text, *_strings(payload)]))


def _skills(raw: object) -> tuple[Skill, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise InvalidField("skills", "must be a list")
    if len(raw) > SKILLS_MAX:
        raise InvalidField("skills", f"more than {SKILLS_MAX}")
    return tuple([_skill(entry) for entry in raw])


def _skill(raw: object) -> Skill:
    if isinstance(raw, str):  # plain cards list their skills by name
        return Skill(raw, raw, "", (), ())
    if not isinstance(raw, dict):
        raise InvalidField("skills", "each must be an object or a string")
    get = raw.get
    name = _text("skills", get("name"))
    return Skill(
        _text("skills", get("id")) or name,
        name,
        _text("skills", get("description")),
        parse_tags("skills", get("tags")),
        _examples(get("examples")),
    )


def _examples(raw: object) -> tuple[str, ...]:
    if raw is None:
        return ()
    if not isinstance(raw, list) or len(raw) > EXAMPLES_MAX:
        raise InvalidField("skills", f"examples must be a list of at most {EXAMPLES_MAX}")
    return tuple([_text("skills", example) for example in raw])


def _strings(value: object) -> Iterator[str]:
    """Every string in a free-form payload, keys left out; depth is already bounded."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


def check_depth(value: object) -> None:
    """Refuse what is nested too deep, without recursing into it."""
    level: list[object] = [value]
    for _ in range(CARD_DEPTH_MAX):
        level = [inner for outer in level for inner in _children(outer)]
        if not level:
            return
    raise InvalidRequest(f"nested deeper than {CARD_DEPTH_MAX}")


def _children(value: object) -> list[object]:
    if isinstance(value, dict):
        return [inner for inner in value.values() if isinstance(inner, dict | list)]
    if isinstance(value, list):
        return [inner for inner in value if isinstance(inner, dict | list)]
    return []
