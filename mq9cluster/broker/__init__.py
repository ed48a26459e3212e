"""What a request means: one method per mq9 command, from parsed request to reply.

`router` finds the command by its subject; `mailboxes` carries it out on the shard that holds the
mailbox. The gateway calls the router; nothing below calls up.
"""
