"""`python -m chaos.again FOLDER`: judges the mailboxes of a kept run once more."""

import json
import sys
from pathlib import Path

from chaos.checkers.mailboxes import check, summary
from chaos.keeping import read_back


def main() -> int:
    """Read the history, judge it, say what is wrong."""
    lines = (Path(sys.argv[1]) / "history.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if record.pop("workload") == "mailboxes"]
    histories = read_back(records)
    violations = [violation for history in histories for violation in check(history)]
    print(summary(violations) or f"{len(records)} records of {len(histories)} mailboxes: right")
    return 1 if violations else 0


if __name__ == "__main__":
    sys.exit(main())
