"""`python -m tests.fuzz NAME [libFuzzer options]`: one target under atheris, by hand.

Needs `pip install atheris` in the virtual environment; `-max_total_time=300` ends it after five
minutes. The corpus grows in tests/fuzz/build/NAME, and findings are left beside it.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["mq9cluster", "wsproto", "h11"]):
    from tests.fuzz.targets import SEEDS, TARGETS

BUILD = Path(__file__).parent / "build"


def main() -> None:
    """Fuzz until a finding, or as long as the options say."""
    name, *options = sys.argv[1:]
    corpus = BUILD / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(SEEDS[name]):
        (corpus / f"seed{number}").write_bytes(seed)
    found = f"-artifact_prefix={BUILD}/{name}-"
    atheris.Setup([sys.argv[0], str(corpus), found, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
