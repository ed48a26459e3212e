"""DISCOVER: from body to request, and from what was found to reply.

Source: docs/protocol.md, section 4. The filter and the vector are handed on as they came: search
knows what they may be.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any, NamedTuple

import orjson

from mq9cluster.domain.errors import InvalidField
from mq9cluster.domain.limits import PAGE_MAX, REPLY_JSON_BYTES_MAX, RESULTS_MAX
from mq9cluster.domain.registry import AgentFound
from mq9cluster.protocol import fields

LIMIT_DEFAULT = 20
SEMANTIC_CHARS_MAX = 4_096  # a question, not a document
MODES = ("text", "semantic", "hybrid")


class DiscoverRequest(NamedTuple):
    """What a DISCOVER asks. `text` is empty unless words are asked for; likewise the others.

    `vector` is in place of the embedded `semantic`, and of `embedder` ("": the cluster's).
    """

    text: str
    semantic: str
    vector: object
    embedder: str
    filter: object
    limit: int
    page: int
    min_score: float
    exact: bool
    stale: bool
    live: bool


def parse_discover(payload: bytes) -> DiscoverRequest:
    """The body of AGENT.DISCOVER. Raises InvalidField, InvalidRequest."""
    body = fields.parse_body(payload)
    text, semantic = fields.text(body, "text"), fields.text(body, "semantic")
    if len(semantic) > SEMANTIC_CHARS_MAX:
        raise InvalidField("semantic", f"longer than {SEMANTIC_CHARS_MAX} characters")
    vector = body.get("vector")
    text, semantic, vector = _by_mode(body, text, semantic, vector)
    return DiscoverRequest(
        text,
        semantic,
        vector,
        fields.text(body, "embedder"),
        body.get("filter"),
        fields.integer(body, "limit", 1, RESULTS_MAX, LIMIT_DEFAULT),
        fields.integer(body, "page", 1, PAGE_MAX, 1),
        _score(body),
        fields.flag(body, "exact"),
        fields.choice(body, "consistency", ("linearizable", "stale")) == "stale",
        body.get("live") is None or fields.flag(body, "live"),
    )


def _by_mode(
    body: Mapping[str, Any], text: str, semantic: str, vector: object
) -> tuple[str, str, object]:
    """What of the three is used. Without a mode `semantic` wins; hybrid makes do with one."""
    mode = body.get("mode")
    if mode is not None and (type(mode) is not str or mode not in MODES):
        raise InvalidField("mode", f"must be one of {', '.join(MODES)}")
    if mode is None:
        mode = "semantic" if semantic or vector is not None else "text"
    elif not (text or semantic or vector is not None):
        mode = "text"  # nothing to rank by: all, by name
    elif mode == "text" and not text:
        raise InvalidField("text", "required")
    elif mode == "semantic" and not semantic and vector is None:
        raise InvalidField("semantic", "required")
    elif mode == "hybrid" and not (text or semantic):
        raise InvalidField("text", "required")
    if mode == "text":
        return text, "", None
    if mode == "semantic":
        return "", semantic, vector
    return text or semantic, semantic or text, vector


def _score(body: Mapping[str, Any]) -> float:
    value = body.get("min_score")
    if value is None:
        return 0.0
    if type(value) not in {int, float} or not isfinite(value) or value < 0:
        raise InvalidField("min_score", "must be a number from 0 on")
    return float(value)


class Shown(NamedTuple):
    """A hit as it is shown. `matched` are terms, concepts and the best skill."""

    agent: AgentFound
    score: float
    terms: Sequence[str] = ()
    concepts: Sequence[str] = ()
    skill: str | None = None


def discovered(
    hits: Iterable[Shown],
    total: int,
    embedder: Mapping[str, object] | None,
    missing: Sequence[int],
) -> bytes:
    """What DISCOVER answers. Cards beyond a reply's size are named, and marked `omitted`."""
    agents: list[bytes] = []
    left = REPLY_JSON_BYTES_MAX
    for hit in hits:
        left -= len(hit.agent.body)
        agents.append(_agent(hit, whole=left >= 0 and bool(hit.agent.body)))
    rest: dict[str, object] = {"total": total}
    if embedder is not None:
        rest["embedder"] = embedder
    if missing:
        rest["partial"] = missing
    return b'{"error":"","agents":[' + b",".join(agents) + b"]," + orjson.dumps(rest)[1:]


def _agent(hit: Shown, *, whole: bool) -> bytes:
    """The registered object, to the byte, with `_mq9` at its end."""
    agent = hit.agent
    about: dict[str, object] = {
        "score": hit.score,
        "last_seen": agent.seen_ms // 1000,
        "report_info": orjson.Fragment(agent.report_info) if agent.report_info else None,
        "matched": {"terms": hit.terms, "concepts": hit.concepts, "skill": hit.skill},
    }
    if not whole:
        return orjson.dumps({"name": agent.name, "_mq9": about | {"omitted": True}})
    return agent.body[:-1] + b',"_mq9":' + orjson.dumps(about) + b"}"
