"""What a server counts, in the text format of Prometheus."""

import json
import threading
from collections.abc import Callable

_BOUNDS_S = "0.1 0.25 0.5 1.0 2.5 5.0 10.0 30.0 60.0 300.0 1800.0 +Inf".split()
_SERIES = {
    "requests_total": ("counter", "Answered requests, by path and status."),
    "failures_total": ("counter", "Requests that the server failed, by kind."),
    "audio_seconds_total": ("counter", "Sound that was transcribed."),
    "busy_seconds_total": ("counter", "Time in which the worker decoded."),
    "live_audio_seconds_total": ("counter", "Sound of realtime sessions."),
    "request_seconds": ("histogram", "From a request's arrival to the end of its answer."),
    "wait_seconds": ("histogram", "From the end of an upload to its first window's turn."),
    "first_text_seconds": ("histogram", "From the end of an upload to the first settled text."),
}
_NOTHING_SEEN = dict.fromkeys([f'_bucket{{le="{b}"}}' for b in _BOUNDS_S] + ["_sum", "_count"], 0.0)


class Metrics:
    """Counters and histograms; threads may share them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Of each series, what stands behind its name on the page, and the value there.
        self._values: dict[str, dict[str, float]] = {
            name: dict(_NOTHING_SEEN if kind == "histogram" else {})
            for name, (kind, _) in _SERIES.items()
        }
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def count(self, name: str, by: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        inner = ",".join(
            f"{k}={json.dumps(text, ensure_ascii=False)}" for k, text in labels.items()
        )
        self._add(name, {f"{{{inner}}}" if inner else "": by})

    def observe(self, name: str, seconds: float) -> None:
        """Add to a histogram."""
        buckets = {f'_bucket{{le="{b}"}}': 1.0 for b in _BOUNDS_S if seconds <= float(b)}
        self._add(name, {**buckets, "_sum": seconds, "_count": 1.0})

    def _add(self, name: str, new: dict[str, float]) -> None:
        with self._lock:
            values = self._values[name]
            values.update({place: values.get(place, 0.0) + by for place, by in new.items()})

    def total(self, name: str) -> float:
        """Return a counter's sum over all labels."""
        with self._lock:
            return sum(self._values[name].values())

    def render(self) -> str:
        """Return the page that Prometheus reads."""
        with self._lock:
            series = [(name, *_SERIES[name], dict(found)) for name, found in self._values.items()]
        series += [
            (name, "gauge", text, {"": read()}) for name, (text, read) in self.gauges.items()
        ]
        lines: list[str] = []
        for name, kind, text, values in series:
            lines += [f"# HELP distilwhisper_{name} {text}", f"# TYPE distilwhisper_{name} {kind}"]
            lines += [f"distilwhisper_{name}{place} {value:g}" for place, value in values.items()]
        return "\n".join(lines) + "\n"
