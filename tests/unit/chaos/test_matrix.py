"""The matrix names what there is, and what is wrong with it is told."""

from pathlib import Path

import pytest

from chaos import matrix
from chaos.matrix import NEMESES, BadMatrix, read_matrix
from chaos.nemeses.failpoints import STEPS
from mq9cluster.cluster import cluster, snapshot_install  # noqa: F401  their steps are noted
from mq9cluster.domain import failpoints
from mq9cluster.storage import store  # noqa: F401


def test_every_nemesis_is_in_the_matrix() -> None:
    read = read_matrix()
    played = {cell.nemesis for cell in (*read.cells, *read.trials)}
    assert sorted(NEMESES.keys() - played) == []


def test_the_short_selection_is_about_ten_minutes() -> None:
    selection = read_matrix().selection
    around_s = sum(cell.seconds + 15 for cell in selection)  # start, healing, reading
    assert 300 < around_s < 660


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('selection = []\n[[cell]]\nnemesis = "fire"', "no nemesis 'fire'"),
        ('selection = ["b"]\n[[cell]]\nname = "a"\nnemesis = "nothing"', "no such cells: ['b']"),
        ('selection = []\n[[cell]]\nnemesis = "nothing"\nfoo = 1', "foo"),
        ("selection = []\n" + 2 * '[[cell]]\nnemesis = "nothing"\n', "two cells of one name"),
    ],
)
def test_a_wrong_matrix_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "matrix.toml"
    head = '[defaults]\nworkloads = ["mailboxes"]\nseconds = 1\n'
    first, rest = text.split("\n", 1)
    file.write_text(f"{first}\n{head}{rest}")
    with pytest.raises(BadMatrix) as refused:
        read_matrix(file)
    assert said in str(refused.value)


def test_a_cell_is_found_by_its_name_and_an_unknown_one_is_told() -> None:
    (cell,) = read_matrix().named(["soak"])
    assert (cell.name, cell.soak) == ("soak", True)
    with pytest.raises(BadMatrix, match="no cell 'soup'"):
        read_matrix().named(["soup"])


def test_the_failpoints_a_nemesis_arms_exist() -> None:
    points = set(failpoints.points())
    assert [step for step in STEPS if f"{step}.before" not in points] == []


def test_the_matrix_is_where_the_readme_says() -> None:
    assert Path(matrix.__file__).parent / "matrix.toml" == matrix.FILE
