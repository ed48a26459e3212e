"""`python -m bench`, which is what `make bench` calls: see bench.run."""

import sys

from bench.run import main

sys.exit(main())
