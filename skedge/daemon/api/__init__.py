"""Answers to the local API, problems, metrics."""
