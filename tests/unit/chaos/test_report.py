"""The page, the picture and the table show what happened."""

from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from chaos.checkers.verdict import Verdict
from chaos.clients.connection import Operation
from chaos.cluster.nodes import Look
from chaos.report.table import page
from chaos.report.timeline import WIDTH, Event, Timeline

EVENTS = [
    Event(1.0, "fault", {"fault": "kill-leader", "nodes": ["n2"]}),
    Event(3.0, "healed", {"fault": "kill-leader", "nodes": ["n2"]}),
    Event(4.0, "died", {"node": "n1", "code": 1}),
    Event(5.0, "all healed", {}),
]
OPERATIONS = [
    Operation(at, at + 0.01, "m1", "n1", "SEND", "box", told, "")
    for at, told in ((0.5, "done"), (1.5, "unknown"), (2.5, "refused"))
]
LOOKS = [
    Look(at / 2, node, {"0": "n1"} if at % 3 else {}, 100 << 20, 50)
    for at in range(12)
    for node in ("n1", "n2")
]


def test_a_run_becomes_a_page_and_a_picture(tmp_path: Path) -> None:
    verdicts = [Verdict("mailboxes", 7), Verdict("timing", 2, ["m was <early>"])]
    Timeline("kill-leader", "9", EVENTS, OPERATIONS, LOOKS).write(tmp_path, verdicts)
    text = (tmp_path / "report.html").read_text()
    assert "kill-leader n2" in text
    assert "ended with 1" in text
    assert "m was &lt;early&gt;" in text
    assert "--cell kill-leader --seed 9" in text
    assert text.count("<circle") == len(OPERATIONS)
    with Image.open(tmp_path / "report.png") as picture:
        assert picture.width == WIDTH
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or ()}
    assert (0xC0, 0x20, 0x20) in colours  # the request whose outcome nobody knows


def test_a_run_in_which_nothing_happened_is_drawn_too(tmp_path: Path) -> None:
    Timeline("nothing", "1", [], [], []).write(tmp_path, [])
    assert (tmp_path / "report.png").exists()


@dataclass
class Played:
    title: str = "kill-leader"
    seed: str = "9"
    note: str = ""
    verdicts: list[Verdict] = field(default_factory=lambda: [Verdict("mailboxes", 7)])
    operations: int = 1234
    unknown: int = 5
    refused: int = 6
    faults: int = 2
    outage_s: float = 1.25
    recoveries_s: list[float] = field(default_factory=lambda: [0.5, 3.0])
    whole_s: float = 0.1
    right: bool = True


def test_the_table_has_a_line_a_run_and_says_what_was_wrong() -> None:
    wrong = Played("wipe", verdicts=[Verdict("nodes", 3, ["n1 serves"])], right=False)
    text = page([Played(), wrong], "abc-dirty", 2)
    assert "| kill-leader | 9, abc-dirty | " in text
    assert " | 1,234 | 5 | 6 | 2 | 1.2 s | 3.0 s | mailboxes 7 | right |" in text
    assert "**WRONG**: 1 of nodes |" in text
    assert "2 runs, 2,468 requests, 10 of unknown outcome, 4 faults. Not right: wipe." in text
    assert "Not finished" not in text
    part = page([Played(note="a second try")], "abc", 2)
    assert "| right (a second try) |" in part
    assert "Violations: none." in part
    assert "**Not finished**: 1 of 2 were played." in part
