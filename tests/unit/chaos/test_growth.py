"""The judge of long runs: flat is right, growing is told, too little seen is no proof."""

from typing import NamedTuple

from chaos.checkers.growth import judge_growth

MIB = 1 << 20


class Look(NamedTuple):
    node: str
    memory_bytes: int
    files: int


def wrong(*looks: Look) -> list[str]:
    return [text for verdict in judge_growth(looks) for text in verdict.violations]


def run(memory: list[int], files: list[int]) -> list[Look]:
    return [Look("n1", size * MIB, count) for size, count in zip(memory, files, strict=True)]


def test_a_node_that_is_killed_now_and_then_and_stays_as_it_is_does_not_grow() -> None:
    memory = [0, 100, 110, 120, 0, 100, 110, 121] * 20
    assert wrong(*run(memory, [60] * 160)) == []


def test_memory_that_grows_is_told() -> None:
    (text,) = wrong(*run([100 + 2 * look for look in range(160)], [60] * 160))
    assert text == f"n1 grew from {(100 + 2 * 79) * MIB} to {(100 + 2 * 159) * MIB}"


def test_open_files_that_are_never_closed_are_told() -> None:
    (text,) = wrong(*run([100] * 160, [60 + look for look in range(160)]))
    assert text == "n1 grew from 139 to 219"


def test_a_node_that_was_hardly_seen_proves_nothing() -> None:
    assert wrong(*run([100] * 10, [60] * 10)) == ["n1 was seen 10 times, too little to tell"] * 2
