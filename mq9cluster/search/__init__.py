"""Text and vector search of one shard, and merging of many."""
