"""Cells one after the other: what is played again, what is on paper when, and how a series ends."""

import asyncio
from pathlib import Path

import pytest

from chaos import series as series_module
from chaos.cells import Cell, Result
from chaos.checkers.verdict import TRAFFIC, Verdict
from chaos.series import AGAIN, Series, play_once

FINE = Verdict("mailboxes", 9)
IDLE = Verdict(TRAFFIC, 1, ["sends: 1, at least 100 are needed"])
LOST = Verdict("mailboxes", 9, ["m: lost"])


def cell(name: str) -> Cell:
    return Cell(name, "nothing", ("mailboxes",), 10.0)


class Runs:
    """What is played comes to what was written down for it, one after the other."""

    def __init__(self, table: Path, **verdicts: list[list[Verdict] | BaseException]) -> None:
        self.table = table
        self.seconds: list[float] = []
        self.seen: list[str] = []  # the table, as it was when a run began
        self._verdicts = verdicts

    def once(self, played: Cell, seed: str, folder: Path) -> Result:
        self.seconds.append(played.seconds)
        self.seen.append(self.table.read_text() if self.table.exists() else "")
        come_to = self._verdicts[played.name].pop(0)
        if isinstance(come_to, BaseException):
            raise come_to
        return Result(played, seed, come_to, operations=7, folder=folder)

    def series(self, *names: str) -> Series:
        cells = [cell(name) for name in names]
        return Series(cells, "41", Path("reports"), self.table, self.once)


def test_each_cell_is_on_paper_before_the_next_begins(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "RESULTS.md", a=[[FINE]], b=[[LOST]])
    series = runs.series("a", "b")
    series.play()
    assert runs.seen[0] == ""
    assert "| a | 41, " in runs.seen[1]
    assert "1 of 2 were played" in runs.seen[1]
    text = runs.table.read_text()
    assert "| b | 41, " in text
    assert "Not right: b." in text
    assert "Not finished" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["RESULTS.md"]


def test_a_cell_with_too_little_to_do_is_played_once_more_and_says_so(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "t", a=[[FINE, IDLE], [FINE]], b=[[IDLE], [IDLE]], c=[[LOST, IDLE]])
    series = runs.series("a", "b", "c")
    series.play()
    assert runs.seconds == [10, 20, 10, 20, 10]  # what is wrong is not played until it is right
    assert [(one.right, one.note) for one in series.results] == [
        (True, AGAIN),
        (False, AGAIN),
        (False, ""),
    ]
    assert f"right ({AGAIN}) |" in runs.table.read_text()


def test_an_interrupted_series_keeps_what_it_has(tmp_path: Path) -> None:
    runs = Runs(tmp_path / "t", a=[[FINE]], b=[KeyboardInterrupt()])
    series = runs.series("a", "b", "c")
    series.play()
    assert series.interrupted
    assert [one.title for one in series.results] == ["a"]
    assert "1 of 3 were played" in runs.table.read_text()


def test_a_cell_that_hangs_or_breaks_is_a_result_like_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def hang(_: object, folder: Path) -> Result:
        await asyncio.Event().wait()
        raise AssertionError(folder)

    monkeypatch.setattr(series_module.Play, "play", hang)
    monkeypatch.setattr(series_module, "CELL_S_MAX", -9.9)
    hung = play_once(cell("a"), "41", tmp_path)
    assert [verdict.checker for verdict in hung.verdicts] == ["harness"]
    assert "TimeoutError" in hung.violations[0]
    assert not hung.right
