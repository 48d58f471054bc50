"""Whether a workload is well: probes, and the verdicts drawn from them."""
