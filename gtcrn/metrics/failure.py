"""What a metric raises where it has no meaning."""


class MetricFailure(Exception):
    """The metric is undefined for this pair; the message is the reason, to be counted and shown."""
