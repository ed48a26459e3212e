"""Generate Python from the .proto files of this folder, or check that what is committed is fresh.

`make proto` writes the modules into the folder that `OUTPUT` names; `make check` calls this with
`--check`. Messages only: services are wired by hand in cluster/peers.py, the one door to gRPC.
"""

import sys
import tempfile
from importlib.resources import files
from pathlib import Path

PROTO = Path(__file__).resolve().parent
OUTPUT = PROTO.parent / "mq9cluster" / "cluster" / "proto"


def generate(into: Path, sources: list[Path]) -> None:
    """Write `*_pb2.py`, `*_pb2_grpc.py` and their stubs for `sources` into the folder `into`."""
    from grpc_tools import protoc  # noqa: PLC0415  only when there is something to generate

    arguments = [
        "protoc",
        f"--proto_path={PROTO}",
        f"--proto_path={files('grpc_tools') / '_proto'}",
        f"--python_out={into}",
        f"--mypy_out={into}",
        f"--plugin=protoc-gen-mypy={Path(sys.executable).with_name('protoc-gen-mypy')}",
        *(str(source) for source in sources),
    ]
    if protoc.main(arguments) != 0:
        sys.exit("proto/generate.py: protoc failed")


def stale(sources: list[Path]) -> list[str]:
    """Names of generated files that are missing, outdated or left over."""
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        if sources:
            generate(fresh, sources)
        wanted = {path.name: path.read_bytes() for path in fresh.iterdir()}
    present = {path.name: path.read_bytes() for path in OUTPUT.glob("*_pb2*")}
    return sorted(
        name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name)
    )


def main() -> None:
    """Generate, or with --check exit 1 when something is stale."""
    sources = sorted(PROTO.glob("*.proto"))
    if "--check" in sys.argv[1:]:
        if names := stale(sources):
            sys.exit(f"generated code is not fresh, run make proto: {', '.join(names)}")
        return
    OUTPUT.mkdir(parents=True, exist_ok=True)
    for old in OUTPUT.glob("*_pb2*"):
        old.unlink()
    if sources:
        generate(OUTPUT, sources)


if __name__ == "__main__":
    main()
