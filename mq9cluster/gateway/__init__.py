"""Sockets, NATS sessions and the local subscription table. Calls broker; only node calls it."""
