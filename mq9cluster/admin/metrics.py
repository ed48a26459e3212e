"""The Prometheus text of a node: readings of its view, taken at scrape time.

Called by http. The hot path keeps plain integers and histograms (domain/measures.py); nothing is
counted twice.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Metric, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.registry import Collector

from mq9cluster.admin.view import Counted, Level, NodeView, Reading, Spread
from mq9cluster.domain.measures import Histogram


def families(readings: Iterable[Reading]) -> Iterator[Metric]:
    """Readings as metric families, one a name, in the order of their first reading."""
    by_name: dict[str, list[Reading]] = {}
    for reading in readings:
        by_name.setdefault(reading.name, []).append(reading)
    for group in by_name.values():
        yield _family(group)


def _family(group: Sequence[Reading]) -> Metric:
    """One family of readings that share a name. Raises TypeError where their kinds differ."""
    name, text = group[0].name, group[0].help
    names = [label for label, _ in group[0].labels]
    counter = CounterMetricFamily(name, text, labels=names)
    gauge = GaugeMetricFamily(name, text, labels=names)
    histogram = HistogramMetricFamily(name, text, labels=names)
    for reading in group:
        values = [value for _, value in reading.labels]
        match reading:
            case Counted():
                counter.add_metric(values, reading.value)
            case Level():
                gauge.add_metric(values, reading.value)
            case Spread():
                spread = reading.histogram
                histogram.add_metric(values, cumulative(spread), spread.total)
    used: list[Metric] = [family for family in (counter, gauge, histogram) if family.samples]
    if len(used) > 1:
        raise TypeError(f"readings of two kinds are called {name}")
    return used[0]


def cumulative(histogram: Histogram) -> list[tuple[str, float]]:
    """Prometheus buckets: how many observations were at or below each bound."""
    bounds = [*(repr(float(bound)) for bound in histogram.bounds), "+Inf"]
    return list(zip(bounds, accumulate(histogram.counts), strict=True))


class _Readings(Collector):
    def __init__(self, view: NodeView) -> None:
        self._view = view

    def collect(self) -> Iterator[Metric]:
        yield from families(self._view.readings())


class Metrics:
    """What /metrics answers."""

    def __init__(self, view: NodeView) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Readings(view))
        ProcessCollector(registry=self._registry)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Body and content type, in the format that `accept` prefers."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self._registry), content_type
