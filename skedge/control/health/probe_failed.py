"""What a health check fails with."""


class ProbeFailed(Exception):
    """A bad probe; the text is its cause."""


class Misunderstood(ProbeFailed):
    """An answer as a server may give that speaks something else than it was asked in."""
