"""Load reports: how many connections each site has open to whom."""
