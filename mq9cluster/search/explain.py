"""Why an agent was found: the terms, concepts and skill of a card that match a question.

Computed at the asking node for the hits of a page only, from their cards; the `matched` of `_mq9`.
"""

from typing import NamedTuple

from mq9cluster.domain.agent import AgentCard, Skill
from mq9cluster.search.concepts import ConceptEmbedder
from mq9cluster.search.query import PREFIX, Unit
from mq9cluster.search.text import Analyzer

CONCEPTS_MAX = 5  # the strongest; more explain nothing


class Matched(NamedTuple):
    """Terms as the question's units have them, names of concepts, the id of the best skill."""

    terms: tuple[str, ...]
    concepts: tuple[str, ...]
    skill: str | None


class Explainer:
    """One per node, over the node's analyzer and built-in embedder."""

    __slots__ = ("_analyzer", "_embedder")

    def __init__(self, analyzer: Analyzer, embedder: ConceptEmbedder) -> None:
        self._analyzer = analyzer
        self._embedder = embedder

    def explain(
        self, card: AgentCard, units: tuple[Unit, ...], concepts: tuple[str, ...]
    ) -> Matched:
        """What of `card` matches; `concepts` are those of the question."""
        text = card.search_text()
        whole = "\n".join(
            [*text.tags, *text.skills, text.description, *text.examples, text.provider]
        )
        terms: tuple[str, ...] = ()
        if units:
            have = set(self._analyzer.terms(whole)) | set(self._analyzer.name_terms(text.name))
            terms = tuple(_shown(unit) for unit in units if _has(have, unit))
        shared: tuple[str, ...] = ()
        if concepts:
            shared = tuple(self._embedder.shared(f"{text.name}\n{whole}", concepts)[:CONCEPTS_MAX])
        return Matched(terms, shared, self._best_skill(card, units, concepts))

    def _best_skill(
        self, card: AgentCard, units: tuple[Unit, ...], concepts: tuple[str, ...]
    ) -> str | None:
        best, most = None, 0
        for skill in card.skills:
            text = _skill_text(skill)
            count = 0
            if units:
                have = set(self._analyzer.terms(text))
                count = sum(_has(have, unit) for unit in units)
            if concepts:
                count += len(self._embedder.shared(text, concepts))
            if count > most:
                best, most = skill.id, count
        return best


def _skill_text(skill: Skill) -> str:
    return "\n".join([skill.id, skill.name, skill.description, *skill.tags, *skill.examples])


def _has(terms: set[str], unit: Unit) -> bool:
    if unit.kind == PREFIX:
        return any(term.startswith(unit.terms[0]) for term in terms) or unit.terms[-1] in terms
    return terms.issuperset(unit.terms)


def _shown(unit: Unit) -> str:
    return unit.terms[0] + "*" if unit.kind == PREFIX else " ".join(unit.terms)
