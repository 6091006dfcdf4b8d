"""Deep multi-task learning, executable and audited."""

__version__ = "0.1.0"
