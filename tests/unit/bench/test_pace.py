from pathlib import Path

import pytest

from bench.pace import PIECES_MIN, Pace, undisturbed


def written(home: Path, pieces: list[tuple[float, int]]) -> Pace:
    text = "".join(f"{when:.3f} {took}\n" for when, took in pieces)
    (home / "pace").write_text(text)
    return Pace(home)


def test_work_is_compared_to_the_quickest_twentieth_of_all() -> None:
    assert undisturbed([200] * 94 + [100] * 6) == 100
    assert undisturbed([200] * 96 + [100] * 4) == 200


def test_only_what_was_done_between_the_two_moments_counts(tmp_path: Path) -> None:
    pieces = [(1 + n / 50, 100) for n in range(50)] + [
        (2 + n / 50, 150 + n % 2 * 100) for n in range(50)
    ]
    pace = written(tmp_path, pieces)
    assert pace.slowdown(1, 1.99) == 1
    assert pace.slowdown(2, 2.99) == 2


def test_a_mean_of_too_few_is_refused(tmp_path: Path) -> None:
    pace = written(tmp_path, [(n, 100) for n in range(1, PIECES_MIN + 1)])
    assert pace.slowdown(1, PIECES_MIN) == 1
    with pytest.raises(ValueError, match=f"^{PIECES_MIN - 1} pieces of work in"):
        pace.slowdown(2, PIECES_MIN)


def test_the_process_writes_down_its_pieces_and_ends_with_the_context(tmp_path: Path) -> None:
    with Pace(tmp_path) as pace:
        process = pace._process
        assert process
        while len((tmp_path / "pace").read_text().splitlines()) < PIECES_MIN:
            assert process.poll() is None
    assert process.poll() is not None
    assert pace.slowdown(0, float("inf")) > 0
