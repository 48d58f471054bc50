"""The `skedge` command: asks the local API, prints tables or JSON."""
