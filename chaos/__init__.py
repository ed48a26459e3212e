"""The suite that tries to break the broker: real nodes as processes, under real faults.

In Jepsen's parts: `cluster` (nodes, their network and disks), `clients` (seeded workloads over real
sockets), `nemeses` (what goes wrong), `checkers` (what must not have happened), `report` (what a
person looks at). `run` plays one cell of the matrix; `__main__` is what `make chaos` calls.
Of the product it imports only `protocol` and `domain`: it knows the broker as its clients do.
"""
