"""What a user may publish, subscribe to and receive. Called by `session` for those whose user is
restricted; everybody else never comes here.

`Rights` belong to a user and are shared by their connections, `Received` belongs to one connection.
Source: nats-server's permissions; where they let a subscription of `a.>` pass an allowed `a.*`,
which reads more than was allowed, this refuses.
"""

from mq9cluster.domain.access import Permissions, Responses, Rule, SubjectRules
from mq9cluster.gateway.outgoing import Outgoing
from mq9cluster.protocol.subjects import covers, matches

ANSWERS_MAX = 4_096  # subjects per user whose answer is remembered; past it they start anew
ANSWER_SUBJECT_BYTES_MAX = 256  # longer ones are looked at anew, so that the cache stays small
RESPONSES_OPEN_MAX = 4_096  # requests of a connection that may still be answered; the oldest goes


class Rights:
    """The permissions of one user, ready to be asked."""

    __slots__ = ("_publish", "_publishing", "_receiving", "_subscribe", "responses")

    def __init__(self, permissions: Permissions) -> None:
        self._publish = permissions.publish
        self._subscribe = permissions.subscribe
        self.responses: Responses | None = permissions.responses
        self._publishing: dict[bytes, bool] = {}
        self._receiving: dict[bytes, bool] = {}

    @property
    def restrict_publishing(self) -> bool:
        """Whether every PUB has to be looked at."""
        return self._publish.restrict

    @property
    def restrict_receiving(self) -> bool:
        """Whether deliveries have to be looked at: a wildcard may reach what is denied."""
        return bool(self._subscribe.deny)

    def may_publish(self, subject: bytes) -> bool:
        """Whether a message may be published to `subject`; responses aside."""
        return _remembered(self._publishing, subject, self._publish)

    def may_subscribe(self, subject: bytes, queue: bytes | None) -> bool:
        """Whether `subject` may be subscribed to, as member of `queue`."""
        rules = self._subscribe
        if rules.allow is not None and not any(
            covers(rule.subject, subject) and _for_queue(rule, queue) for rule in rules.allow
        ):
            return False
        return not any(
            matches(rule.subject, subject) and _for_queue(rule, queue) for rule in rules.deny
        )

    def may_receive(self, subject: bytes) -> bool:
        """Whether a message to `subject`, which a wildcard let in, may be delivered."""
        return _remembered(self._receiving, subject, SubjectRules(None, self._subscribe.deny))


class Received:
    """What one connection was sent: whether it may be, and what of it may be answered."""

    __slots__ = ("_open", "_responses", "_rights")

    def __init__(self, rights: Rights) -> None:
        self._rights = rights
        self._responses = rights.responses
        self._open: dict[bytes, list[float]] = {}  # by reply subject: how many left, until when

    def take(self, message: Outgoing) -> bool:
        """Whether `message` may be delivered."""
        rights = self._rights
        return not rights.restrict_receiving or rights.may_receive(message.subject)

    def asked(self, reply: bytes, now_s: float) -> None:
        """A request came: its reply subject may be published to."""
        responses = self._responses
        if responses is None:
            return
        open_ = self._open
        open_.pop(reply, None)
        if len(open_) >= RESPONSES_OPEN_MAX:
            del open_[next(iter(open_))]
        open_[reply] = [responses.messages_max or float("inf"), now_s + responses.within_s]

    def may_answer(self, reply: bytes, now_s: float) -> bool:
        """Whether `reply` may be published to as an answer; counts as one."""
        found = self._open.get(reply)
        if found is None:
            return False
        found[0] -= 1
        if found[0] <= 0 or now_s >= found[1]:
            del self._open[reply]
        return now_s < found[1]


def _for_queue(rule: Rule, queue: bytes | None) -> bool:
    return rule.queue is None or (queue is not None and matches(rule.queue, queue))


def _remembered(answers: dict[bytes, bool], subject: bytes, rules: SubjectRules) -> bool:
    answer = answers.get(subject)
    if answer is None:
        answer = _may(rules, subject)
        if len(subject) <= ANSWER_SUBJECT_BYTES_MAX:
            if len(answers) >= ANSWERS_MAX:
                answers.clear()
            answers[subject] = answer
    return answer


def _may(rules: SubjectRules, subject: bytes) -> bool:
    if rules.allow is not None and not any(matches(rule.subject, subject) for rule in rules.allow):
        return False
    return not any(rule.queue is None and matches(rule.subject, subject) for rule in rules.deny)
