"""What the server counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from forethought.serve.limits import Gate
from forethought.serve.think import Answer


class Metrics:
    """One server's counts, in a registry of their own."""

    def __init__(self, gate: Gate) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "forethought_requests", "Requests answered.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "forethought_answer_seconds",
            "From a request's turn to its answer's end.",
            ["model"],
            buckets=(0.1, 0.3, 1, 3, 10, 30, 100, 300),
            registry=self.registry,
        )
        self._tokens = Counter("forethought_tokens", "Tokens, by what for.", ["model", "kind"], registry=self.registry)
        inside = Gauge("forethought_inside", "Requests under way or waiting.", registry=self.registry)
        inside.set_function(lambda: gate.inside)

    def book(self, model: str, answer: Answer) -> None:
        """Count what one answer cost."""
        counts = {
            "prompt": answer.prompt,
            "cached": answer.cached,
            "reasoning": answer.reasoning,
            "answer": answer.spoken,
            "judge": answer.usage.judged,
        }
        for kind, tokens in counts.items():
            self.count(model, kind, tokens)

    def count(self, model: str, kind: str, tokens: int) -> None:
        """Count tokens that are no answer's."""
        self._tokens.labels(model, kind).inc(tokens)

    def text(self) -> bytes:
        """All counts in Prometheus' text format."""
        return generate_latest(self.registry)
