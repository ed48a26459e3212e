"""Replicas that stand at the same entry hold the same state; after healing, all do. Pure."""

from collections.abc import Mapping, Sequence

from chaos.checkers.verdict import Verdict

Standing = Mapping[str, tuple[int, str]]
"""By shard: the applied index, and the hash of the state."""


def apart(standings: Mapping[str, Standing]) -> list[str]:
    """Replicas whose applied indexes are equal and whose states are not."""
    seen: dict[tuple[str, int], tuple[str, str]] = {}
    wrong = []
    for node, standing in standings.items():
        for shard, (index, state) in standing.items():
            first, known = seen.setdefault((shard, index), (node, state))
            if known != state:
                wrong.append(f"shard {shard} at {index}: {first} and {node} hold different states")
    return wrong


def all_equal(standings: Mapping[str, Standing], copies: int) -> bool:
    """Whether every shard has `copies` replicas, all of them at one index."""
    indexes: dict[str, list[int]] = {}
    for standing in standings.values():
        for shard, (index, _) in standing.items():
            indexes.setdefault(shard, []).append(index)
    return bool(indexes) and all(
        len(found) == copies and len(set(found)) == 1 for found in indexes.values()
    )


def judge_answers(answers: Mapping[str, Mapping[str, Sequence[object]]]) -> Verdict:
    """`answers[mailbox][node]`: what each node answered to the same question after healing."""
    wrong = []
    for mailbox, by_node in answers.items():
        (first, expected), *others = by_node.items()
        wrong += [
            f"{mailbox}: {first} and {node} answer differently"
            for node, found in others
            if found != expected
        ]
    return Verdict("same answers", len(answers), wrong)
