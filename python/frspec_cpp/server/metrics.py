"""Metrics in Prometheus' text format, under vLLM's names behind `frspec_`."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from frspec_cpp.generation import Generation
from frspec_cpp.texts import Event, Piece, Reading, Started

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKENS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0, 10000.0, 50000.0, 100000.0)
_FEW = tuple(float(count) for count in (1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32, 64))


class Description(NamedTuple):
    """Of a metric: its name, what it says, its buckets; none: a counter."""

    name: str
    help: str
    buckets: tuple[float, ...] = ()


_COUNTERS = (
    Description("prompt_tokens_total", "Tokens of prompts."),
    Description("prefix_cache_queries_total", "Tokens of prompts that were looked up in the cache."),
    Description("prefix_cache_hits_total", "Those of them that were there."),
    Description("generation_tokens_total", "Tokens generated."),
    Description("request_success_total", "Texts that ended, by their reason."),
    Description("requests_rejected_total", "Requests that were refused, by the status of HTTP."),
    Description("spec_decode_num_drafts_total", "Passes that verified drafts."),
    Description("spec_decode_num_draft_tokens_total", "Drafted tokens that were verified."),
    Description("spec_decode_num_accepted_tokens_total", "Drafted tokens that were accepted."),
    Description("spec_decode_num_accepted_tokens_per_pos_total", "The same, by their place in the draft."),
)
_HISTOGRAMS = (
    Description("time_to_first_token_seconds", "From the request to the first token.", _SECONDS),
    Description("inter_token_latency_seconds", "The same as step_seconds, over the tokens.", _SECONDS),
    Description("e2e_request_latency_seconds", "From the request to the end of the text.", _SECONDS),
    Description("request_queue_time_seconds", "In the queue.", _SECONDS),
    Description("request_prefill_time_seconds", "For the prompt and the first token.", _SECONDS),
    Description("request_decode_time_seconds", "For the tokens behind the first.", _SECONDS),
    Description("request_prompt_tokens", "Tokens of a prompt.", _TOKENS),
    Description("request_generation_tokens", "Tokens of a text.", _TOKENS),
    # Texts are followed one by one: a pass of several counts once for each.
    Description("iteration_tokens_total", "Tokens that a pass gave to a text, for each of its texts.", _FEW),
    Description("step_seconds", "From a text's tokens to its next ones, for each text of a pass.", _SECONDS),
)


class _Histogram:
    def __init__(self, buckets: tuple[float, ...]) -> None:
        self.buckets = buckets
        self.counts = [0] * (len(buckets) + 1)
        self.sum = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.buckets, value)] += times
        self.sum += value * times


class Metrics:
    """Of all requests. To be used by the event loop's thread."""

    def __init__(self) -> None:
        self._counters: dict[str, Counter[tuple[str, str]]] = {counter.name: Counter() for counter in _COUNTERS}
        self._histograms = {histogram.name: _Histogram(histogram.buckets) for histogram in _HISTOGRAMS}

    def count(self, name: str, amount: int = 1, label: tuple[str, str] = ("", "")) -> None:
        """Adds to a counter, of one value of a label where it has one."""
        self._counters[name][label] += amount

    def add(self, name: str, value: float, times: int = 1) -> None:
        """Adds a value, so many times, to a histogram."""
        self._histograms[name].add(value, times)

    def see(self, event: Event) -> None:
        """Takes what is told of any text. Those whose clients have left are told of, too: what they cost adds up."""
        if isinstance(event, Piece):
            accepted = sum(token.drafted for token in event.tokens)
            self.count("generation_tokens_total", len(event.tokens))
            self.count("spec_decode_num_accepted_tokens_total", accepted)
            for place in range(accepted):
                self.count("spec_decode_num_accepted_tokens_per_pos_total", label=("position", str(place)))
        elif isinstance(event, Generation):
            stats = event.stats
            self.count("prompt_tokens_total", stats.prompt_tokens)
            self.count("prefix_cache_queries_total", stats.prompt_tokens)
            self.count("prefix_cache_hits_total", stats.cached_tokens)
            self.count("spec_decode_num_drafts_total", stats.drafted_steps)
            self.count("spec_decode_num_draft_tokens_total", stats.drafted_tokens)

    def text(self, model: str, gauges: Mapping[str, float], totals: Mapping[str, float]) -> str:
        """All of them; `gauges`, and `totals`, which are counters, are those that are known when they are asked for."""
        name = model.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        own = f'model_name="{name}"'
        lines: list[str] = []
        for kind, values in (("gauge", gauges), ("counter", totals)):
            for told, value in values.items():
                lines += [f"# TYPE frspec_{told} {kind}", f"frspec_{told}{{{own}}} {value!r}"]
        for counter in _COUNTERS:
            lines += [f"# HELP frspec_{counter.name} {counter.help}", f"# TYPE frspec_{counter.name} counter"]
            counts = self._counters[counter.name] or {("", ""): 0}
            for (label, key), count in sorted(counts.items()):
                more = f',{label}="{key}"' if label else ""
                lines.append(f"frspec_{counter.name}{{{own}{more}}} {count}")
        for histogram in _HISTOGRAMS:
            lines += [f"# HELP frspec_{histogram.name} {histogram.help}", f"# TYPE frspec_{histogram.name} histogram"]
            lines += self._buckets(histogram.name, own)
        return "\n".join(lines) + "\n"

    def _buckets(self, name: str, own: str) -> Iterable[str]:
        histogram = self._histograms[name]
        total = 0
        for bound, count in zip([*map("{:g}".format, histogram.buckets), "+Inf"], histogram.counts, strict=True):
            total += count
            yield f'frspec_{name}_bucket{{{own},le="{bound}"}} {total}'
        yield f"frspec_{name}_sum{{{own}}} {histogram.sum!r}"
        yield f"frspec_{name}_count{{{own}}} {total}"


class Watch:
    """Follows one text for the metrics of what its client sees."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._asked = self._last = time.monotonic()
        self._first: float | None = None
        self._started = self._asked
        self.tokens = 0
        self._ended = False

    def see(self, event: Event) -> None:
        """Takes what is told of the text."""
        now = time.monotonic()
        if isinstance(event, Started):
            self._started = now
            self._metrics.add("request_queue_time_seconds", event.queue_seconds)
        elif isinstance(event, Piece):
            self._piece(event, now)
        elif isinstance(event, Generation):
            self._end(event, now)

    def leave(self) -> None:
        """Nobody follows the text any more."""
        if not self._ended:
            self._metrics.count("request_success_total", label=("finished_reason", "abort"))
        self._ended = True

    def progress(self, reading: Reading) -> dict[str, float]:
        """How far a prompt was read, in llama.cpp's form."""
        milliseconds = round(1000 * (time.monotonic() - self._started))
        return {
            "total": reading.total,
            "cache": reading.cached,
            "processed": reading.processed,
            "time_ms": milliseconds,
        }

    def timings(self) -> dict[str, float]:
        """What is known of a text that is being written, in llama.cpp's form."""
        first = self._last if self._first is None else self._first
        return {
            "prompt_ms": 1000 * (first - self._started),
            "predicted_n": self.tokens,
            "predicted_ms": 1000 * (self._last - first),
        }

    def _piece(self, piece: Piece, now: float) -> None:
        count = len(piece.tokens)
        if count == 0:
            return
        metrics = self._metrics
        if self._first is None:
            self._first = now
            metrics.add("time_to_first_token_seconds", now - self._asked)
        else:
            metrics.add("inter_token_latency_seconds", (now - self._last) / count, count)
            metrics.add("step_seconds", now - self._last)
            metrics.add("iteration_tokens_total", count)
        self.tokens += count
        self._last = now

    def _end(self, text: Generation, now: float) -> None:
        self._ended = True
        metrics, stats = self._metrics, text.stats
        metrics.count("request_success_total", label=("finished_reason", text.finish_reason))
        metrics.add("e2e_request_latency_seconds", now - self._asked)
        metrics.add("request_prefill_time_seconds", stats.prefill_seconds)
        metrics.add("request_decode_time_seconds", max(stats.total_seconds - stats.prefill_seconds, 0.0))
        metrics.add("request_prompt_tokens", stats.prompt_tokens)
        metrics.add("request_generation_tokens", stats.generated_tokens)
