"""What this version can do that an older one could not, as a number.

Every node announces its level with its run; `meta` holds the level of the cluster, the lowest of
all its members', which only rises (`cluster`, on `meta`'s leader, proposes it). Nobody proposes a
command above it, so that no member finds in its log what it cannot apply; a node whose level is
below it refuses to run. So an upgrade is a restart of one node after the other, and may be taken
back until the last one is done.

A version that adds a command raises FEATURES and names the command in SINCE; likewise for a row, a
field, a peer message or an answer that older nodes could not read, which whoever asks for it holds
back below that level.
"""

from typing import Final

from mq9cluster.domain.command import (
    Command,
    CreateMailbox,
    DropEmbedder,
    RegisterAgent,
    ReportAgent,
    ReportAgents,
    SetAgentCode,
    UnregisterAgent,
    UnregisterAgents,
)

FEATURES: Final = 3
AGENTS: Final = 2
DIALECTS: Final = 3  # public and latest mailboxes, Follow, bare listings, priorities of a FETCH
SINCE: Final[dict[type[Command], int]] = {  # commands beyond level 1, and the level they need
    RegisterAgent: AGENTS,
    UnregisterAgent: AGENTS,
    ReportAgent: AGENTS,
    UnregisterAgents: AGENTS,
    ReportAgents: AGENTS,
    SetAgentCode: AGENTS,
    DropEmbedder: AGENTS,
}


def level_of(command: Command) -> int:
    """The level that `command` needs."""
    if isinstance(command, CreateMailbox) and (command.public or command.latest):
        return DIALECTS
    return SINCE.get(type(command), 1)
