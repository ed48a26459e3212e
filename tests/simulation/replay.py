"""The same program in several processes, whose sets and dicts are in other orders.

Called by tests: a seed must say everything.
"""

import os
import subprocess
import sys


def printed(program: str, *hash_seeds: str) -> set[str]:
    """What `program` prints, run once with each of these for PYTHONHASHSEED."""
    return {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in hash_seeds
    }
