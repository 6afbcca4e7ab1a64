"""The exception for a metric that is undefined for a pair."""


class MetricFailure(Exception):
    """The metric is undefined for this pair; the message is the reason, to be counted and shown."""
