"""The documents of the local API. Pure."""
