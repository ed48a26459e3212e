"""What search needs is there before a node's files run out."""

import subprocess
import sys

# As many files as are open already: nothing more can be loaded.
SCRIPT = """
import os, resource
from mq9cluster.domain.agent import parse_card
from mq9cluster.search.index import ShardIndex
from mq9cluster.search.query import NO_STATISTICS, Question, parse_units
from mq9cluster.search.text import Analyzer

index = ShardIndex(Analyzer(), {})
card = parse_card({"name": "a", "description": "scan of invoices"})
question = Question(parse_units("invoice", index._analyzer), depth=1)
files = len(os.listdir("/proc/self/fd")) - 1
resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
for _ in range(2):  # once more: what it was before is forgotten
    index.put(card, {}, 0)
index.statistics(question)
index.search(question, NO_STATISTICS._replace(agents=1, frequencies=(1,)))
"""


def test_a_card_is_indexed_and_found_where_no_file_can_be_opened() -> None:
    """Chaos, soak, seed 42: numpy.unique loads numpy.ma when it is first called."""
    command = [sys.executable, "-c", SCRIPT]
    found = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")
