"""The deterministic state machine: (view, command) to (writes, outcome). No clock, no randomness,
no I/O.

`apply.Machine` is the door. It steps through an entry's commands with a `workspace.Workspace`,
which overlays what the entry has written so far on the committed view; `mailbox` and
`consumer_group` are what the commands do, with `hand_outs`, `retention` and `ends` for what they
have in common, `due` is what time does, `rows` and `keys` are how state
is written down, `codec` how commands travel, `reads` what readers see.
"""
