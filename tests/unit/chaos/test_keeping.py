"""What a run keeps can be judged again."""

import json

from chaos.checkers.mailboxes import check
from chaos.keeping import kept, read_back
from tests.unit.chaos.test_mailboxes import right


def test_a_history_survives_being_kept() -> None:
    history = right()
    lines = [json.dumps(record) for record in kept(history)]
    (again,) = read_back(map(json.loads, lines))
    assert again == history
    assert check(again) == []


def test_a_wrong_history_is_as_wrong_when_it_is_read_back() -> None:
    history = right()
    del history.found[2]
    (again,) = read_back(kept(history))
    assert [one.kind for one in check(again)] == ["lost"]
