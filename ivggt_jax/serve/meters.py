"""The server's metrics, in Prometheus's format."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.0, 5.0)
"""Bounds of the histograms' buckets."""


class Meters:
    """Metrics of one server, not shared with other servers in the same process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.frames = Counter("ivggt_frames", "Frames by what became of them", ["outcome"], registry=self._registry)
        self.cut_off = Counter(
            "ivggt_cut_off", "Clients that the server sent away, by reason", ["reason"], registry=self._registry
        )
        self.malformed = Counter("ivggt_malformed_messages", "Messages not understood", registry=self._registry)
        self.slots = Gauge(
            "ivggt_slots", "Streams of the batch, by whether a client holds them", ["state"], registry=self._registry
        )
        self.cache_fill = Gauge(
            "ivggt_cache_fill",
            "Live tokens of a stream over its budget; 0 if no client holds it",
            ["slot"],
            registry=self._registry,
        )
        self.latency = Histogram(
            "ivggt_latency_seconds", "From a frame's arrival to its answer", buckets=SECONDS, registry=self._registry
        )
        self.step = Histogram(
            "ivggt_step_seconds", "Time of a step of the whole batch", buckets=SECONDS, registry=self._registry
        )

    def hold(self, held: int, count: int) -> None:
        """Set how many of the slots are held."""
        self.slots.labels("held").set(held)
        self.slots.labels("free").set(count - held)

    def page(self) -> bytes:
        """All metrics in Prometheus's text format."""
        return generate_latest(self._registry)
