"""The wires to the outside: bus to other sites, link probes, health checks, load reports, local API."""
