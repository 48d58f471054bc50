"""Configuration schema and loader; the daemon, the CLI and Ansible validate with this one parser."""
