"""Measurements beside NATS JetStream: same machine, same disk, same run.

`make bench` calls bench.run; bench.scale and bench.hotpath are run by hand.
"""
