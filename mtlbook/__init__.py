"""Deep multi-task learning, executable and audited."""

__version__ = "0.2.0"
