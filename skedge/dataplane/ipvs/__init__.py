"""The engine ipvs: virtual services, marks, weights, names, settings."""
