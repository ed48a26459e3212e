"""Nodes as processes, their network and their disks."""
