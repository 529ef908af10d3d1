"""What a server counts, in the text format of Prometheus."""

import json
import math
import threading
from collections import defaultdict
from collections.abc import Callable

SECONDS = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
_BOUNDS = (*SECONDS, math.inf)

_COUNTERS = {
    "requests_total": "Answered requests, by path and status.",
    "failures_total": "Requests that the server failed, by kind.",
    "audio_seconds_total": "Sound that was transcribed.",
    "busy_seconds_total": "Time in which the worker decoded.",
    "live_audio_seconds_total": "Sound of realtime sessions.",
}
_HISTOGRAMS = {
    "request_seconds": "From a request's arrival to the end of its answer.",
    "wait_seconds": "From the end of an upload to its first window's turn.",
    "first_text_seconds": "From the end of an upload to the first settled text.",
}

Labels = tuple[tuple[str, str], ...]


class Metrics:
    """Counters and histograms; threads may share them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, defaultdict[Labels, float]] = {
            name: defaultdict(float) for name in _COUNTERS
        }
        # How many took at most so long, one for each bound, the last of which is infinity.
        self._buckets = {name: [0] * len(_BOUNDS) for name in _HISTOGRAMS}
        self._sums = dict.fromkeys(_HISTOGRAMS, 0.0)
        self.gauges: dict[str, tuple[str, Callable[[], float]]] = {}

    def count(self, name: str, by: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[name][tuple(labels.items())] += by

    def observe(self, name: str, seconds: float) -> None:
        """Add to a histogram."""
        with self._lock:
            self._sums[name] += seconds
            for place, most in enumerate(_BOUNDS):
                self._buckets[name][place] += seconds <= most

    def total(self, name: str) -> float:
        """Return a counter's sum over all labels."""
        with self._lock:
            return sum(self._counts[name].values())

    def render(self) -> str:
        """Return the page that Prometheus reads."""
        lines: list[str] = []
        with self._lock:
            for name, text in _COUNTERS.items():
                lines += _head(name, text, "counter")
                lines += [_line(name, labels, n) for labels, n in self._counts[name].items()]
            for name, text in _HISTOGRAMS.items():
                lines += _head(name, text, "histogram")
                bounds = [*map(str, SECONDS), "+Inf"]
                lines += [
                    _line(f"{name}_bucket", (("le", bound),), n)
                    for bound, n in zip(bounds, self._buckets[name], strict=True)
                ]
                lines.append(_line(f"{name}_sum", (), self._sums[name]))
                lines.append(_line(f"{name}_count", (), self._buckets[name][-1]))
        for name, (text, read) in self.gauges.items():
            lines += [*_head(name, text, "gauge"), _line(name, (), read())]
        return "\n".join(lines) + "\n"


def _head(name: str, text: str, kind: str) -> list[str]:
    return [f"# HELP distilwhisper_{name} {text}", f"# TYPE distilwhisper_{name} {kind}"]


def _line(name: str, labels: Labels, value: float) -> str:
    inner = ",".join(f"{key}={json.dumps(text, ensure_ascii=False)}" for key, text in labels)
    return f"distilwhisper_{name}{f'{{{inner}}}' if inner else ''} {value:g}"
