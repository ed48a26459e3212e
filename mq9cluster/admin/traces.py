"""Traces by OpenTelemetry: the only door to it, and only where the extra `otel` is installed.

Imported by node where --traces is given. Whether a trace is sampled is its client's decision, told
in the flags of `traceparent`: a request without one begins no trace. Spans leave on a thread of the
SDK's own, in batches; when that falls behind, spans are dropped.
"""

import time

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from mq9cluster.domain.ports import Clock

_CONTEXT = TraceContextTextMapPropagator()
_NANOSECONDS = 1_000_000_000
SYSTEM = {"messaging.system": "mq9"}


class OtelSpan:
    """A span that is under way."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        carrier: dict[str, str] = {}
        _CONTEXT.inject(carrier, trace.set_span_in_context(span))
        self.traceparent = carrier["traceparent"]

    def end(self, code: str) -> None:
        """End it; a refusal is an error of this span."""
        if code:
            self._span.set_attribute("error.type", code)
            self._span.set_status(trace.StatusCode.ERROR, code)
        self._span.end()


class OtelTracer:
    """The port `domain.tracing.Tracer`, by the SDK."""

    def __init__(self, node: str, clock: Clock, processor: SpanProcessor) -> None:
        resource = Resource.create({"service.name": "mq9cluster", "service.instance.id": node})
        self._provider = TracerProvider(resource=resource, sampler=ParentBased(ALWAYS_OFF))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("mq9cluster")
        self._offset_ns = time.time_ns() - round(clock.seconds() * _NANOSECONDS)

    def begin(self, name: str, parent: str) -> OtelSpan | None:
        """A server's span, or None where nobody wants it."""
        context = _CONTEXT.extract({"traceparent": parent})
        span = self._tracer.start_span(name, context, trace.SpanKind.SERVER, SYSTEM)
        return OtelSpan(span) if span.is_recording() else None

    def record(self, name: str, parent: str, began_s: float, ended_s: float, shard: int) -> None:
        """A span of known times."""
        context = _CONTEXT.extract({"traceparent": parent})
        span = self._tracer.start_span(
            name,
            context,
            attributes={**SYSTEM, "mq9.shard": shard},
            start_time=self._ns(began_s),
        )
        span.end(self._ns(ended_s))

    def _ns(self, at_s: float) -> int:
        return round(at_s * _NANOSECONDS) + self._offset_ns

    def close(self) -> None:
        """Send what waits; blocks for some seconds at most where nobody takes it."""
        self._provider.shutdown()


def otlp_tracer(node: str, clock: Clock) -> OtelTracer:
    """Spans over OTLP, to where OpenTelemetry's own environment variables say."""
    return OtelTracer(node, clock, BatchSpanProcessor(OTLPSpanExporter()))
