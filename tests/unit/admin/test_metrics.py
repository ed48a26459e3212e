"""Readings become Prometheus text."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mq9cluster.admin.metrics import Metrics, cumulative, families
from mq9cluster.admin.view import Counted, Level, Spread
from mq9cluster.domain.measures import Histogram
from tests.unit.admin.stub import StubView


def samples(readings):
    view = StubView()
    view.metric_readings = readings
    text, _ = Metrics(view).text("")
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
        if sample.name.startswith("mq9_")
    }


def test_counters_and_levels_keep_their_labels_and_values():
    assert samples(
        [
            Counted("mq9_commands_total", "Commands.", 3, (("command", "send"),)),
            Level("mq9_connections", "Connections.", 2),
            Counted("mq9_commands_total", "Commands.", 4, (("command", "fetch"),)),
        ]
    ) == {
        ("mq9_commands_total", (("command", "send"),)): 3,
        ("mq9_commands_total", (("command", "fetch"),)): 4,
        ("mq9_connections", ()): 2,
    }


def test_a_histogram_is_cumulative_and_has_count_and_sum():
    histogram = Histogram((1, 2.5))
    histogram.observe(1)
    histogram.observe(2, times=3)
    histogram.observe(99)
    assert cumulative(histogram) == [("1.0", 1), ("2.5", 4), ("+Inf", 5)]
    assert samples([Spread("mq9_batch", "Batch.", histogram)]) == {
        ("mq9_batch_bucket", (("le", "1.0"),)): 1,
        ("mq9_batch_bucket", (("le", "2.5"),)): 4,
        ("mq9_batch_bucket", (("le", "+Inf"),)): 5,
        ("mq9_batch_count", ()): 5,
        ("mq9_batch_sum", ()): 106,
    }


def test_readings_of_two_kinds_may_not_share_a_name():
    with pytest.raises(TypeError, match="mq9_x"):
        list(families([Level("mq9_x", "X.", 1), Spread("mq9_x", "X.", Histogram())]))


def test_the_process_itself_is_measured_too():
    text, content_type = Metrics(StubView()).text("")
    assert b"process_resident_memory_bytes" in text
    assert content_type.startswith("text/plain")
