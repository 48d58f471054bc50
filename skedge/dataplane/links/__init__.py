"""Link devices ``sk-*``: making, reading, changing; WireGuard's two implementations."""
