"""What a node keeps on disk: one RocksDB for all its shards and logs, and a sentinel beside it.

`store` opens the two together and refuses damaged, foreign or missing data; `database` is the only
door to RocksDB; `keyspace` lays out keys; `state` is one shard's rows as the state machine sees
them; `log` is one group's log.
"""
