"""Subjects: validity, wildcards, and which ones are mq9 commands. Pure; called by gateway.

Source: docs/protocol.md, section 7, and nats-server's subject rules. Subjects are bytes as they
came off the wire.
"""

COMMAND_PREFIX = b"$mq9.AI."
FETCH_PREFIX = b"$mq9.AI.MSG.FETCH."
SEND_PREFIX = b"$mq9.AI.MSG.SEND."
REPORT_SUBJECT = b"$mq9.AI.AGENT.REPORT"
BROADCAST_PREFIX = b"$mq9.AI.BROADCAST."
# Of these nothing is left but their answers, once the connection that asked is gone.
READ_PREFIXES = (
    FETCH_PREFIX,
    b"$mq9.AI.MSG.QUERY.",
    b"$mq9.AI.AGENT.DISCOVER",
    b"$mq9.AI.MAILBOX.QUERY.",
    b"$mq9.AI.MAILBOX.LIST.",
)

# Under these a subscription names one mailbox, so that a wildcard in the address would read other
# people's mail.
PUSH_PREFIXES = (b"$mq9.AI.MAILBOX.MSG.", b"$mq9.AI.INBOX.")

_STAR = b"*"
_TAIL = b">"


def is_command(subject: bytes) -> bool:
    """Whether a message to `subject` is an mq9 command and therefore never forwarded to
    subscribers.
    """
    return subject.startswith(COMMAND_PREFIX) and not subject.startswith(BROADCAST_PREFIX)


def is_valid(subject: bytes) -> bool:
    """Whether `subject` may be subscribed to: no empty token, and `>` only at the end."""
    tokens = subject.split(b".")
    return b"" not in tokens and _TAIL not in tokens[:-1]


def is_literal(subject: bytes) -> bool:
    """Whether no token of `subject` is a wildcard; `b*`, `**` and `>x` are plain text."""
    if _STAR not in subject and _TAIL not in subject:
        return True
    tokens = subject.split(b".")
    return _STAR not in tokens and _TAIL not in tokens


def is_valid_literal(subject: bytes) -> bool:
    """Whether a pedantic client may publish to `subject`."""
    return is_valid(subject) and is_literal(subject)


def matches(pattern: bytes, subject: bytes) -> bool:
    """Whether a subscription to `pattern` gets messages published to `subject`."""
    wanted = pattern.split(b".")
    tokens = subject.split(b".")
    if b"" in tokens:
        return False
    for place, token in enumerate(wanted):
        if place == len(tokens):
            return False
        if token == _TAIL and place == len(wanted) - 1:
            return True
        if token not in (_STAR, tokens[place]):
            return False
    return len(wanted) == len(tokens)


def covers(pattern: bytes, narrower: bytes) -> bool:
    """Whether whatever a subscription to `narrower` gets, one to `pattern` gets too."""
    wanted = pattern.split(b".")
    tokens = narrower.split(b".")
    if b"" in tokens:
        return False
    last = len(tokens) - 1
    for place, token in enumerate(wanted):
        if place > last:
            return False
        if token == _TAIL and place == len(wanted) - 1:
            return True
        if tokens[place] == _TAIL and place == last:
            return False
        if token not in (_STAR, tokens[place]):
            return False
    return len(wanted) == len(tokens)


def reads_other_mailboxes(pattern: bytes) -> bool:
    """Whether a subscription to `pattern` has a wildcard where a mailbox address stands.

    An address may hold dots, so that every token but the last (the priority) belongs to it, and `>`
    always reaches into it.
    """
    for prefix in PUSH_PREFIXES:
        if pattern.startswith(prefix):
            *address, priority = pattern[len(prefix) :].split(b".")
            in_address = _STAR in address or _TAIL in address
            return in_address or priority == _TAIL or (priority == _STAR and not address)
    return False
