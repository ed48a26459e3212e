"""DISCOVER's filter: conditions on name, tags, skills, provider and version, with negation.

Parsed once from the request; evaluated by `facets.Facets` over whole shards at a time. Values match
exactly, except `name`, which is a prefix.
"""

from dataclasses import dataclass
from typing import Any

from mq9cluster.domain.errors import InvalidField
from mq9cluster.domain.limits import NAME_BYTES_MAX

VALUES_MAX = 64  # values of one condition; each is a posting list
NOT_DEPTH_MAX = 8  # "not" in "not": nobody reads more
CONDITIONS = ("name", "tags", "skills", "provider", "version")


@dataclass(frozen=True, slots=True)
class Filter:
    """All of `conditions` must hold, each by any of its values, and `unless` must not."""

    conditions: tuple[tuple[str, tuple[str, ...]], ...]
    unless: "Filter | None" = None


def parse_filter(raw: object, depth: int = 0) -> Filter | None:
    """The filter in a request, None when there is none; InvalidField otherwise."""
    if raw is None:
        return None
    if not isinstance(raw, dict):
        raise InvalidField("filter", "must be an object")
    if depth > NOT_DEPTH_MAX:
        raise InvalidField("filter", f"more than {NOT_DEPTH_MAX} nots in each other")
    unknown = [key for key in raw if key not in CONDITIONS and key != "not"]
    if unknown:
        raise InvalidField("filter", f"unknown condition {str(unknown[0])[:64]!r}")
    conditions = tuple(
        (key, _values(key, raw[key])) for key in CONDITIONS if raw.get(key) is not None
    )
    unless = parse_filter(raw.get("not"), depth + 1)
    return Filter(conditions, unless) if conditions or unless else None


def _values(key: str, raw: object) -> tuple[str, ...]:
    values = raw if isinstance(raw, list) else [raw]
    if not 1 <= len(values) <= VALUES_MAX:
        raise InvalidField("filter", f"{key} must have 1 to {VALUES_MAX} values")
    for value in values:
        if not isinstance(value, str):
            raise InvalidField("filter", f"{key} must be a string or a list of strings")
        if not 1 <= len(value) <= NAME_BYTES_MAX:
            raise InvalidField("filter", f"{key} must have 1 to {NAME_BYTES_MAX} characters")
    return tuple(dict.fromkeys(values))


def filter_to_wire(condition: Filter | None) -> Any:
    """The request's own form of a filter."""
    if condition is None:
        return None
    wire: dict[str, Any] = {key: list(values) for key, values in condition.conditions}
    if condition.unless is not None:
        wire["not"] = filter_to_wire(condition.unless)
    return wire


def filter_from_wire(raw: object) -> Filter | None:
    """The filter a peer sent."""
    return parse_filter(raw)
