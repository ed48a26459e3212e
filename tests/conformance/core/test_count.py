"""How much is compared with nats-server: fewer checks than promised would go unnoticed."""

import ast
from pathlib import Path

from tests.conformance.core.test_bytes import CASES, CASES_ANY_ORDER, DIFFERENCES
from tests.conformance.core.test_websocket import CONVERSATIONS, LAST_WORDS

HERE = Path(__file__).parent
ON_ONE_NODE_MIN, ON_THREE_NODES_MIN = 80, 12


def checks_with(file: Path, fixture: str) -> list[str]:
    """The tests of a file that take this fixture: each runs against both servers."""
    functions = ast.walk(ast.parse(file.read_text(encoding="utf-8")))
    return [
        function.name
        for function in functions
        if isinstance(function, ast.AsyncFunctionDef | ast.FunctionDef)
        and function.name.startswith("test_")
        and fixture in {argument.arg for argument in function.args.args}
    ]


def test_one_node_is_compared_often_enough():
    side_by_side = len(CASES) + len(CASES_ANY_ORDER) + len(CONVERSATIONS) + len(LAST_WORDS)
    side_by_side += len(checks_with(HERE / "test_behaviour.py", "port"))
    side_by_side += len(checks_with(HERE / "test_limits.py", "both"))
    assert side_by_side >= ON_ONE_NODE_MIN, side_by_side


def test_three_nodes_are_compared_often_enough():
    on_three = checks_with(HERE.parents[1] / "cluster" / "test_routes.py", "nodes")
    assert len(on_three) >= ON_THREE_NODES_MIN, on_three


def test_every_row_that_bytes_can_show_is_among_them():
    rows = {int(name.split(" ")[0]) for name in (*CASES, *CASES_ANY_ORDER)}
    assert rows >= set(range(1, 16))


def test_the_differences_are_those_that_were_decided():
    assert len(DIFFERENCES) == 7
