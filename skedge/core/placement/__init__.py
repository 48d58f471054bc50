"""Who gets a new connection, and why: the rule, its candidates, policies among services, weights for IPVS. Pure."""
