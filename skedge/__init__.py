"""skedge: joins services on many edge hosts into one network (see docs/architecture.md)."""

__version__ = "0.1.0"
