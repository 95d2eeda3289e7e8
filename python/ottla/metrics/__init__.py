"""Numbers about a client: what `metrics(raw=True)` returns, and reporters for `metric_reporters=`.

The core counts; the classes here name the numbers as kafka-python does and let a program add its own. Sensors, which
take samples in Python, are not here.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = [
    "AnonMeasurable",
    "DictReporter",
    "KafkaMetric",
    "MetricConfig",
    "MetricName",
    "Metrics",
    "NamedMeasurable",
    "Quota",
]


class MetricName:
    """A metric's name, group and tags: a key for a dictionary."""

    __slots__ = ("_description", "_group", "_name", "_tags")

    def __init__(
        self, name: str, group: str, description: str | None = None, tags: dict[str, str] | None = None
    ) -> None:
        if not (name and group):
            raise ValueError("a metric needs a name and a group")
        if tags is not None and not isinstance(tags, dict):
            raise ValueError("a metric's tags are a dict")
        self._name = name
        self._group = group
        self._description = description
        self._tags = None if tags is None else dict(tags)

    @property
    def name(self) -> str:
        """The name."""
        return self._name

    @property
    def group(self) -> str:
        """The group, such as `producer-metrics`."""
        return self._group

    @property
    def description(self) -> str | None:
        """What is counted, for people."""
        return self._description

    @property
    def tags(self) -> dict[str, str] | None:
        """A copy of the tags."""
        return None if self._tags is None else dict(self._tags)

    def __hash__(self) -> int:
        return hash((self._group, self._name, frozenset((self._tags or {}).items())))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MetricName):
            return NotImplemented
        return (self._group, self._name, self._tags) == (other._group, other._name, other._tags)

    def __repr__(self) -> str:
        return f"MetricName(name={self._name}, group={self._group}, tags={self._tags})"


class Quota:
    """A bound for a metric's value."""

    __slots__ = ("_bound", "_upper")

    def __init__(self, bound: float, is_upper: bool) -> None:
        self._bound = bound
        self._upper = is_upper

    @classmethod
    def upper_bound(cls, upper_bound: float) -> Quota:
        """Return a bound that is not to be passed."""
        return cls(upper_bound, is_upper=True)

    @classmethod
    def lower_bound(cls, lower_bound: float) -> Quota:
        """Return a bound that is to be reached."""
        return cls(lower_bound, is_upper=False)

    def is_upper_bound(self) -> bool:
        """Return whether the bound is not to be passed."""
        return self._upper

    @property
    def bound(self) -> float:
        """The bound."""
        return self._bound

    def is_acceptable(self, value: float) -> bool:
        """Return whether `value` keeps the bound."""
        return value <= self._bound if self._upper else value >= self._bound


class MetricConfig:
    """How samples are taken."""

    __slots__ = ("_samples", "event_window", "quota", "tags", "time_window_ms")

    def __init__(
        self,
        quota: Quota | None = None,
        samples: int = 2,
        event_window: int = 2**63 - 1,
        time_window_ms: int = 30_000,
        tags: dict[str, str] | None = None,
    ) -> None:
        self.quota = quota
        self.samples = samples
        self.event_window = event_window
        self.time_window_ms = time_window_ms
        self.tags = tags or {}

    @property
    def samples(self) -> int:
        """How many windows are kept."""
        return self._samples

    @samples.setter
    def samples(self, value: int) -> None:
        if value < 1:
            raise ValueError("a metric needs at least one sample")
        self._samples = value


class AnonMeasurable:
    """A function of (config, now in ms) as something to measure."""

    def __init__(self, measure_fn: Callable[[MetricConfig, float], float]) -> None:
        self._measure = measure_fn

    def measure(self, config: MetricConfig, now: float) -> float:
        """Return the value now."""
        return self._measure(config, now)


class NamedMeasurable:
    """A measurable with its metric's name."""

    def __init__(self, metric_name: MetricName, measurable_stat: AnonMeasurable) -> None:
        self._name = metric_name
        self._stat = measurable_stat

    @property
    def name(self) -> MetricName:
        """The metric's name."""
        return self._name

    @property
    def stat(self) -> AnonMeasurable:
        """What is measured."""
        return self._stat


class KafkaMetric:
    """A metric: its name, and its value when asked."""

    def __init__(self, metric_name: MetricName, measurable: AnonMeasurable, config: MetricConfig) -> None:
        if not metric_name or not measurable:
            raise ValueError("a metric needs a name and something to measure")
        self._name = metric_name
        self._measurable = measurable
        self._config = config

    @property
    def metric_name(self) -> MetricName:
        """The name."""
        return self._name

    @property
    def measurable(self) -> AnonMeasurable:
        """What is measured."""
        return self._measurable

    @property
    def config(self) -> MetricConfig:
        """How samples are taken."""
        return self._config

    @config.setter
    def config(self, config: MetricConfig) -> None:
        self._config = config

    def value(self, time_ms: float | None = None) -> float:
        """Return the value, at a time if one is given."""
        return self._measurable.measure(self._config, time.time() * 1000 if time_ms is None else time_ms)


class DictReporter:
    """A reporter that keeps the metrics in a dictionary: category, then name."""

    def __init__(self, prefix: str | None = "") -> None:
        self._prefix = prefix or ""
        self._lock = threading.Lock()
        self._metrics: dict[str, dict[str, KafkaMetric]] = {}

    def snapshot(self) -> dict[str, dict[str, float]]:
        """Return each metric's value now."""
        with self._lock:
            metrics = {category: dict(named) for category, named in self._metrics.items()}
        return {
            category: {name: metric.value() for name, metric in named.items()} for category, named in metrics.items()
        }

    def init(self, metrics: Iterable[KafkaMetric]) -> None:
        """Take the metrics that there are already."""
        for metric in metrics:
            self.metric_change(metric)

    def metric_change(self, metric: KafkaMetric) -> None:
        """Take a metric that is new or replaced."""
        with self._lock:
            self._metrics.setdefault(self.get_category(metric), {})[metric.metric_name.name] = metric

    def metric_removal(self, metric: KafkaMetric) -> KafkaMetric | None:
        """Drop a metric, and return it if it was there."""
        category = self.get_category(metric)
        with self._lock:
            named = self._metrics.get(category, {})
            removed = named.pop(metric.metric_name.name, None)
            if not named:
                self._metrics.pop(category, None)
        return removed

    def get_category(self, metric: KafkaMetric) -> str:
        """Return prefix, group and tags, joined by dots."""
        tags = ",".join(f"{key}={value}" for key, value in sorted((metric.metric_name.tags or {}).items()))
        return ".".join(part for part in (self._prefix, metric.metric_name.group, tags) if part)

    def configure(self, configs: Any) -> None:
        """Take the client's options."""

    def close(self) -> None:
        """Give back what the reporter holds."""


class Metrics:
    """The metrics of a client, and those that report them."""

    def __init__(
        self,
        default_config: MetricConfig | None = None,
        reporters: Iterable[Any] | None = None,
        enable_expiration: bool = False,
    ) -> None:
        del enable_expiration  # nothing expires: there are no sensors
        self._config = default_config or MetricConfig()
        self._reporters = list(reporters or ())
        self._lock = threading.Lock()
        self._metrics: dict[MetricName, KafkaMetric] = {}
        for reporter in self._reporters:
            reporter.init([])

    @property
    def config(self) -> MetricConfig:
        """The configuration of metrics that bring none."""
        return self._config

    @property
    def metrics(self) -> dict[MetricName, KafkaMetric]:
        """The metrics by name."""
        return self._metrics

    def metric_name(
        self, name: str, group: str, description: str = "", tags: dict[str, str] | None = None
    ) -> MetricName:
        """Return a name that carries the client's tags and `tags`."""
        return MetricName(name, group, description, {**self._config.tags, **(tags or {})})

    def add_metric(
        self, metric_name: MetricName, measurable: AnonMeasurable, config: MetricConfig | None = None
    ) -> None:
        """Add a metric; a name can be taken once."""
        metric = KafkaMetric(metric_name, measurable, config or self._config)
        self.register_metric(metric)

    def register_metric(self, metric: KafkaMetric) -> None:
        """Add a metric; a name can be taken once."""
        with self._lock:
            if metric.metric_name in self._metrics:
                raise ValueError(f"there is a metric of this name already: {metric.metric_name}")
            self._metrics[metric.metric_name] = metric
        for reporter in self._reporters:
            reporter.metric_change(metric)

    def remove_metric(self, metric_name: MetricName) -> KafkaMetric | None:
        """Drop a metric, and return it if it was there."""
        with self._lock:
            metric = self._metrics.pop(metric_name, None)
        if metric is not None:
            for reporter in self._reporters:
                reporter.metric_removal(metric)
        return metric

    def add_reporter(self, reporter: Any) -> None:
        """Add a reporter and tell it the metrics that there are already."""
        with self._lock:
            metrics = list(self._metrics.values())
        reporter.init(metrics)
        self._reporters.append(reporter)

    def close(self) -> None:
        """Close the reporters."""
        for reporter in self._reporters:
            reporter.close()
