"""Control streams to the neighbours: TLS, sessions, frames, encoding of records."""
