"""The judge of delays and ttls: what is early or late is told, what may be either is not."""

from chaos.checkers.timing import Seen, Timed, judge


def message(**fields: float) -> Timed:
    """A message whose SEND lasted from 10.0 to 10.2."""
    return Timed("m", 10.0, 10.2, **fields)


def looks(*spans: tuple[float, bool]) -> list[Seen]:
    """QUERYs of a tenth of a second each, that showed the message or not."""
    return [Seen(at, at + 0.1, frozenset({"m"} if shown else ())) for at, shown in spans]


def wrong(sent: Timed, seen: list[Seen]) -> list[str]:
    return judge("box", [sent], seen)


def test_a_message_that_comes_and_goes_at_its_time_is_right() -> None:
    seen = looks((11, False), (12.5, True), (14, True), (16.5, False), (30, False))
    assert wrong(message(delay_s=2, ttl_s=6), seen) == []


def test_a_second_either_way_is_allowed_and_more_is_not() -> None:
    assert wrong(message(delay_s=2), looks((11.0, True), (13.1, False))) == []
    assert wrong(message(delay_s=2), looks((10.8, True))) != []
    assert wrong(message(delay_s=2), looks((13.3, False))) != []


def test_a_message_seen_before_its_delay_is_over_is_early() -> None:
    (text,) = wrong(message(delay_s=5), looks((12, True)))
    assert text == "box: m was seen early: 2.90 s before its time"


def test_a_message_not_seen_after_its_delay_is_late() -> None:
    (text,) = wrong(message(delay_s=2), looks((15, False)))
    assert text.startswith("box: m was missing at 15.00, 2.80 s")


def test_a_message_seen_after_its_ttl_came_back_or_never_went() -> None:
    (text,) = wrong(message(ttl_s=3), looks((11, True), (14, False), (20, True)))
    assert text == "box: m was seen 6.80 s after its end"


def test_a_message_gone_before_its_ttl_is_lost() -> None:
    assert wrong(message(ttl_s=60), looks((20, False))) != []


def test_a_send_without_an_answer_may_show_or_not_but_never_early() -> None:
    unknown = Timed("m", 10.0, delay_s=5.0)
    assert wrong(unknown, looks((20, False), (30, True))) == []
    assert wrong(unknown, looks((12, True))) != []


def test_a_refused_or_unheard_of_message_must_not_show() -> None:
    refused = Timed("m", 10.0, delay_s=1.0, refused=True)
    assert wrong(refused, looks((20, False))) == []
    assert wrong(refused, looks((20, True))) != []
    assert judge("box", [], looks((20, True))) == ["box: m was never sent"]
