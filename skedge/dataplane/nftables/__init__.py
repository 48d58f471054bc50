"""Our nftables table: default deny, tunnel guard, forward guard, packets that are not tracked."""
