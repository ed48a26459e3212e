"""Who holds what, and agreement: shards, groups, the engine port, the durability loop."""
