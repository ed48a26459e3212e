"""The one error family: each class says when it is raised and carries its wire text and code.

Source: docs/protocol.md, section 5. `str(error)` is the wire text; it begins with a stable phrase.
"""


class Mq9Error(Exception):
    """Base of everything a client can be told."""

    code: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Mq9Error) and (self.code, str(self)) == (other.code, str(other))

    def __hash__(self) -> int:
        return hash((self.code, str(self)))


class MailboxExists(Mq9Error):
    """CREATE of a taken name."""

    code = "mailbox_exists"

    def __init__(self, address: str) -> None:
        super().__init__(f"mailbox {address} already exists")


class MailboxNotFound(Mq9Error):
    """Any command on a missing or expired mailbox."""

    code = "mailbox_not_found"

    def __init__(self, address: str) -> None:
        super().__init__(f"mailbox not found: mailbox {address} does not exist")


class MailboxFull(Mq9Error):
    """SEND over the mailbox's max_msgs or max_bytes."""

    code = "mailbox_full"

    def __init__(self, why: str) -> None:
        super().__init__(f"mailbox full: {why}")


class MessageNotFound(Mq9Error):
    """DELETE, ACK or NACK of an id that is not there."""

    code = "message_not_found"

    def __init__(self, why: str) -> None:
        super().__init__(f"message not found: {why}")


class InvalidMailAddress(Mq9Error):
    """A malformed address."""

    code = "invalid_mail_address"

    def __init__(self, why: str) -> None:
        super().__init__(f"invalid mail_address: {why}")


class InvalidField(Mq9Error):
    """A malformed field or header; headers are named without `mq9-`."""

    code = "invalid_field"

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"invalid {field}: {why}")


class InvalidRequest(Mq9Error):
    """The body is no JSON object."""

    code = "invalid_request"

    def __init__(self, why: str) -> None:
        super().__init__(f"invalid request: {why}")


class UnknownCommand(Mq9Error):
    """A subject under `$mq9.AI.` that names no command."""

    code = "unknown_command"

    def __init__(self, subject: str) -> None:
        super().__init__(f"unknown command: {subject}")


class AgentNotFound(Mq9Error):
    """UNREGISTER or REPORT of an unknown or expired agent."""

    code = "agent_not_found"

    def __init__(self, name: str) -> None:
        super().__init__(f"agent not found: {name}")


class EmbedderMismatch(Mq9Error):
    """A vector of the wrong size, or of another embedder."""

    code = "embedder_mismatch"

    def __init__(self, why: str) -> None:
        super().__init__(f"embedder mismatch: {why}")


class PermissionDenied(Mq9Error):
    """The user may not."""

    code = "permission_denied"

    def __init__(self, why: str) -> None:
        super().__init__(f"permission denied: {why}")


class Unavailable(Mq9Error):
    """No quorum or no leader within the deadline; nothing was done."""

    code = "unavailable"

    def __init__(self, why: str) -> None:
        super().__init__(f"unavailable: {why}")


class OutcomeUnknown(Mq9Error):
    """Proposed, but the outcome was not learnt in time: it may still happen."""

    code = "timeout"

    def __init__(self, why: str) -> None:
        super().__init__(f"timeout: {why}")


class Overloaded(Mq9Error):
    """A bounded queue is full; nothing was done."""

    code = "overloaded"

    def __init__(self, why: str) -> None:
        super().__init__(f"overloaded: {why}")


class RefusedElsewhere(Mq9Error):
    """An error that another node decided on, or that was decided before: the same text and code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def error_of(code: str, text: str) -> Mq9Error:
    """The error that once had this code and text."""
    return RefusedElsewhere(code, text)
