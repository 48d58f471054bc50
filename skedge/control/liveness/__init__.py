"""Whether a link is up: probes, and the decision drawn from them."""
