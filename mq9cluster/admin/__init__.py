"""The HTTP side of a node: health, metrics, monitoring."""
