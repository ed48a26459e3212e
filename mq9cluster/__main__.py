"""`python -m mq9cluster` and the `mq9cluster` program."""

import sys

from mq9cluster.cli import run


def main() -> None:
    """Run the command line and exit with its code."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
