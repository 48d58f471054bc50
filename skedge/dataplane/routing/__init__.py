"""Addresses, routes, rules and forwarding of the overlay."""
