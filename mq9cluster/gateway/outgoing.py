"""One message on its way to any number of readers: encoded once per kind of reader. Made by
`exchange`, read by sessions.
"""

from mq9cluster.protocol.nats import message_head, message_tail


class Outgoing:
    """A message; `head` and `tail` stand around the sid of a reader that takes headers."""

    __slots__ = ("_plain", "head", "header", "payload", "reply", "subject", "tail")

    def __init__(
        self, subject: bytes, reply: bytes | None, header: bytes | None, payload: bytes
    ) -> None:
        self.subject = subject
        self.reply = reply
        self.header = header
        self.payload = payload
        if header is None and reply is None:  # most messages: no calls for them
            self.head = b"MSG %b " % subject
            self.tail = b" %d\r\n%b\r\n" % (len(payload), payload)
        else:
            self.head = message_head(subject, header)
            self.tail = message_tail(reply, header, payload)
        self._plain: tuple[bytes, bytes] | None = None

    def plain(self) -> tuple[bytes, bytes]:
        """Head and tail for a reader without headers support: the header block is left out."""
        if self._plain is None:
            self._plain = (
                message_head(self.subject, None),
                message_tail(self.reply, None, self.payload),
            )
        return self._plain
