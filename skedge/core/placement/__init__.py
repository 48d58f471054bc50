"""Who gets a new connection: the balancing rule, its candidates, policies among services, weights for IPVS. Pure."""
