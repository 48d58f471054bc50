"""The one error of a health check."""


class ProbeFailed(Exception):
    """A bad probe; the text is its cause."""
