"""PURE: model, link-state database, SPF, RIB, placement rule, desired state, diff and plan.

No I/O, no clock (``now`` is an argument), no randomness (a seed is). Standard library only.
"""
