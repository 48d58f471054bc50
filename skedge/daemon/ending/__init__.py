"""Ending connections by name, and who has them ended by itself."""
