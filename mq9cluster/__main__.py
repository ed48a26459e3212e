"""`python -m mq9cluster` and the `mq9cluster` program."""

import signal
import sys


def main() -> None:
    """Run the command line and exit with its code."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C while it loads: an end, no traceback
    from mq9cluster.cli import run  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
