"""What this site's kernel should hold, and the least that makes it so. Pure."""
