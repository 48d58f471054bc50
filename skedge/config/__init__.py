"""Configuration schema and loader; the daemon, the CLI and Ansible validate with this one parser."""

from skedge.config.loader import from_dict, load, loads, problems

__all__ = ["from_dict", "load", "loads", "problems"]
