"""The lexicon: what agents do, in seven languages, read from data files people can extend.

`data/*.toml` holds a file per domain, in it a table per concept: `en`, `zh`, `ja`, `ko`, `de`,
`es`, `fr` are comma-separated words and phrases that mean it, `near` names concepts that somebody
asking for this one would also look at. `~` before a word marks it as weak: it often means something
else. `data/words.toml` lists words without content, by language, and *generic* ones.

Loaded once by the node; `concepts.ConceptEmbedder` compiles it.
"""

import hashlib
import random
import tomllib
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parent / "data"
WORDS_FILE = "words.toml"
LANGUAGES = ("en", "zh", "ja", "ko", "de", "es", "fr")
STRONG, WEAK = 1.0, 0.35


class LexiconError(Exception):
    """A data file says something that cannot be meant; the text names file and concept."""


@dataclass(frozen=True, slots=True)
class Alias:
    """A word or phrase that means a concept."""

    language: str
    phrase: str
    weight: float


@dataclass(frozen=True, slots=True)
class Concept:
    """Something agents do."""

    id: str
    domain: str
    aliases: tuple[Alias, ...]
    near: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Lexicon:
    """All concepts in order of their ids, words without content, and a hash of it all."""

    concepts: tuple[Concept, ...]
    empty_words: frozenset[str]
    generic_words: frozenset[str]
    content_hash: str

    def thinned(self, share: float, seed: int) -> "Lexicon":
        """This lexicon with `share` of its aliases forgotten at random: a test of its worth."""
        chance = random.Random(seed)  # noqa: S311  # reproducible on purpose
        concepts = tuple(
            Concept(
                concept.id,
                concept.domain,
                tuple(alias for alias in concept.aliases if chance.random() >= share),
                concept.near,
            )
            for concept in self.concepts
        )
        thin = f"{self.content_hash}-{share}-{seed}"
        return Lexicon(concepts, self.empty_words, self.generic_words, thin)


def load_lexicon(directory: Path = DATA) -> Lexicon:
    """The lexicon in `directory`; LexiconError for what cannot be meant."""
    digest = hashlib.sha256()
    concepts: dict[str, Concept] = {}
    words: dict[str, str] = {}
    for path in sorted(directory.glob("*.toml")):
        data = path.read_bytes()
        digest.update(path.name.encode() + b"\0" + data + b"\0")
        try:
            tables = tomllib.loads(data.decode())
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise LexiconError(f"{path.name}: {error}") from error
        if path.name == WORDS_FILE:
            words = tables
            continue
        for name, table in tables.items():
            if name in concepts:
                raise LexiconError(f"{path.name}: {name} is also in {concepts[name].domain}")
            concepts[name] = _concept(path.stem, name, table)
    for concept in concepts.values():
        missing = [name for name in concept.near if name not in concepts]
        if missing:
            raise LexiconError(f"{concept.domain}: {concept.id} is near unknown {missing}")
    return Lexicon(
        concepts=tuple(concepts[name] for name in sorted(concepts)),
        empty_words=frozenset(
            word for language in LANGUAGES for word in words.get(language, "").split()
        ),
        generic_words=frozenset(words.get("generic", "").split()),
        content_hash=digest.hexdigest()[:16],
    )


def _concept(domain: str, name: str, table: object) -> Concept:
    if not isinstance(table, dict) or not all(isinstance(text, str) for text in table.values()):
        raise LexiconError(f"{domain}: {name} must be a table of texts")
    unknown = set(table) - {*LANGUAGES, "near"}
    if unknown:
        raise LexiconError(f"{domain}: {name} has unknown {sorted(unknown)}")
    aliases = tuple(
        _alias(language, phrase.strip())
        for language in LANGUAGES
        for phrase in table.get(language, "").split(",")
        if phrase.strip()
    )
    if not aliases:
        raise LexiconError(f"{domain}: {name} has no words")
    return Concept(name, domain, aliases, tuple(table.get("near", "").split()))


def _alias(language: str, phrase: str) -> Alias:
    if phrase.startswith("~"):
        return Alias(language, phrase[1:].strip(), WEAK)
    return Alias(language, phrase, STRONG)
