"""Seeded workloads over real sockets."""
