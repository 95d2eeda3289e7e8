"""A client's numbers in the two shapes of `metrics()`."""

from __future__ import annotations

from typing import Any

from ottla.metrics import AnonMeasurable, KafkaMetric, MetricConfig, MetricName

__all__ = ["metrics"]

Numbers = dict[str, dict[str, float]]


def metrics(numbers: Numbers, tags: dict[str, str], *, raw: bool) -> dict[Any, Any]:
    """Return the numbers by group and name, or as metrics by `MetricName`."""
    if not raw:
        return numbers
    config = MetricConfig(tags=tags)
    found = {}
    for group, named in numbers.items():
        for name, value in named.items():
            metric_name = MetricName(name, group, "", tags)
            found[metric_name] = KafkaMetric(metric_name, _constant(value), config)
    return found


def _constant(value: float) -> AnonMeasurable:
    return AnonMeasurable(lambda _config, _now: value)
