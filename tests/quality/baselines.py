"""Plain text search as anybody would do it first; what ours is measured beside.

Each takes (name, text) pairs and gives a function from a query to names, best first.
"""

import math
import re
import sqlite3
import weakref
from collections import Counter
from collections.abc import Callable, Iterable

Search = Callable[[str], list[str]]
Documents = list[tuple[str, str]]


def fts5(documents: Documents, tokenizer: str) -> Search:
    """SQLite's FTS5 with its own bm25(), words OR'ed."""
    database = sqlite3.connect(":memory:")
    database.execute(f"create virtual table agents using fts5(name, text, tokenize='{tokenizer}')")
    database.executemany("insert into agents values (?, ?)", documents)

    def search(query: str) -> list[str]:
        words = re.findall(r"\w+", query)
        if tokenizer == "trigram":
            words = [word for word in words if len(word) >= 3]
        if not words:
            return []
        match = " OR ".join(f'"{word}"' for word in words)
        rows = database.execute(
            "select name from agents where agents match ? order by bm25(agents), name", (match,)
        )
        return [name for (name,) in rows]

    weakref.finalize(search, database.close)
    return search


def _ranked(scores: dict[str, float]) -> list[str]:
    found = [(score, name) for name, score in scores.items() if score > 0.0]
    return [name for _, name in sorted(found, key=lambda hit: (-hit[0], hit[1]))]


def tf_idf(documents: Documents, features: Callable[[str], Iterable[str]]) -> Search:
    """Cosine of tf-idf vectors."""
    counts = {name: Counter(features(f"{name} {text}")) for name, text in documents}
    frequency = Counter(feature for count in counts.values() for feature in count)

    def vector(count: Counter[str]) -> dict[str, float]:
        weighted = {
            feature: (1 + math.log(n)) * math.log(len(documents) / frequency[feature])
            for feature, n in count.items()
            if frequency[feature]
        }
        length = math.sqrt(sum(value**2 for value in weighted.values())) or 1.0
        return {feature: value / length for feature, value in weighted.items()}

    vectors = {name: vector(count) for name, count in counts.items()}

    def search(query: str) -> list[str]:
        wanted = vector(Counter(features(query)))
        return _ranked(
            {
                name: sum(value * have.get(feature, 0.0) for feature, value in wanted.items())
                for name, have in vectors.items()
            }
        )

    return search


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def character_grams(text: str) -> list[str]:
    padded = f" {' '.join(words(text))} "
    return [padded[i : i + n] for n in (2, 3, 4) for i in range(len(padded) - n + 1)]
