"""Which embedders the cluster has, which of its nodes can embed with them, and how one takes over.
A part of `meta`, pure.

There are two roles: `concept`, the built-in embedder, whose id changes with its lexicon, and
`model`, the one that is set, if any. A node announces what it has. When all nodes that live have
announced another embedder than the cluster's, that one *follows*: agents are embedded with it
beside the present one, and once every shard says that none is missing it takes over, in the entry
that says so. Vectors of the one before are then dropped (`retired`).
"""

from dataclasses import dataclass, field
from typing import Any, Final

CONCEPT: Final = "concept"
MODEL: Final = "model"
ROLES: Final = (CONCEPT, MODEL)
RETIRED_MAX: Final = 32  # embedders remembered until surely no shard has a code of theirs

Announced = dict[str, str | None]
"""The id by role; "" for a role that is not filled, None while the id is not known yet."""


@dataclass(slots=True)
class Role:
    """One role. `current` and `following` are ids; "" means none, None not decided, or nobody."""

    current: str | None = None
    following: str | None = None
    embedded: list[int] = field(default_factory=list)  # shards that have all of `following`

    def wanted(self) -> list[str]:
        """Embedders whose codes agents should have."""
        return [by for by in (self.current, self.following) if by]


@dataclass(slots=True)
class Embedders:
    """The roles, what nodes announced, and embedders that the cluster had."""

    concept: Role = field(default_factory=Role)
    model: Role = field(default_factory=Role)
    nodes: dict[str, Announced] = field(default_factory=dict)
    retired: list[str] = field(default_factory=list)

    @classmethod
    def unpack(cls, fields: dict[str, Any]) -> "Embedders":
        """From `meta`'s row."""
        return cls(
            Role(**fields[CONCEPT]), Role(**fields[MODEL]), fields["nodes"], fields["retired"]
        )

    def role(self, name: str) -> Role:
        """One of ROLES."""
        return self.concept if name == CONCEPT else self.model

    def wanted(self) -> list[str]:
        """Embedders whose codes agents should have."""
        return [*self.concept.wanted(), *self.model.wanted()]

    def current(self) -> str:
        """The embedder that questions are asked by, "" while none is decided."""
        return self.model.current or self.concept.current or ""

    def having(self, embedder: str) -> list[str]:
        """Nodes that announced it."""
        return sorted(name for name, has in self.nodes.items() if embedder in has.values())

    # --- changes, as `meta` applies them ---------------------------------------------------------

    def announce(self, node: str, announced: Announced, alive: list[str]) -> None:
        """What a node can embed with. `alive` are the members whose run goes on."""
        self.nodes[node] = {role: announced.get(role) for role in ROLES}
        self.agree(alive)

    def agree(self, alive: list[str]) -> None:
        """Let another embedder follow where all nodes that live have it."""
        for name in ROLES:
            role = self.role(name)
            announced = {self.nodes.get(node, {}).get(name) for node in alive}
            if role.current is None:
                role.current = next((by for by in sorted(filter(None, announced))), None)
                if role.current is None and announced == {""}:
                    role.current = ""
            elif len(announced) == 1 and (by := announced.pop()) is not None:
                self._follow(role, by)

    def _follow(self, role: Role, by: str) -> None:
        if by == role.current:
            self._retire(role.following)  # some agents may have codes of it by now
            role.following, role.embedded = None, []
        elif not by:
            self._take_over(role, by)
        elif by != role.following:
            self._retire(role.following)
            role.following, role.embedded = by, []
            if by in self.retired:
                self.retired.remove(by)

    def embedded(self, embedder: str, shard: int, shards: int) -> None:
        """A shard has the codes of all its agents."""
        for name in ROLES:
            role = self.role(name)
            if role.following == embedder and shard not in role.embedded:
                role.embedded.append(shard)
                if len(role.embedded) == shards:
                    self._take_over(role, embedder)

    def _take_over(self, role: Role, embedder: str) -> None:
        for old in (role.current, role.following):
            if old != embedder:
                self._retire(old)
        role.current, role.following, role.embedded = embedder, None, []

    def _retire(self, old: str | None) -> None:
        if old and old not in self.retired:
            self.retired.append(old)
            del self.retired[:-RETIRED_MAX]
