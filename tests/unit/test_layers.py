"""Things import-linter cannot say."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "mq9cluster"


def _imported_roots(path: Path) -> set[str]:
    roots = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            roots.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            roots.add(node.module.partition(".")[0])
    return roots


def test_nothing_imports_a_serialiser_that_can_run_code():
    offenders = {
        str(path.relative_to(PACKAGE)): found
        for path in PACKAGE.rglob("*.py")
        if (found := _imported_roots(path) & {"pickle", "marshal", "shelve", "dill", "cloudpickle"})
    }
    assert offenders == {}


def test_a_package_init_hands_nothing_on():
    """But for the SDK's, whose names are for others to import."""
    offenders = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("__init__.py")
        if path.parent.name != "client"
        and any(
            not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            for node in ast.parse(path.read_text()).body
        )
    ]
    assert offenders == []


def test_every_module_says_what_it_owns():
    silent = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
        and ast.get_docstring(ast.parse(path.read_text())) is None
    ]
    assert silent == []
