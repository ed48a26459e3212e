"""The deterministic state machine: (view, command) to (writes, outcome). No clock, no randomness,
no I/O.

`apply.Machine` is the door. It steps through an entry's commands with a `workspace.Workspace`,
which overlays what the entry has written so far on the committed view; `mailbox` and
`consumer_group` are what the commands do, with `hand_outs`, `retention` and `ends` for what they
have in common, `registry` is what agents' commands do, `due` is what time does, `rows`,
`agent_rows` and `keys` are how state is written down, `codec` and `agent_codec` how commands
travel, `reads` and `agents_read` what readers see.
"""
