"""How bytecode is made of the C files, by bcc in a process of its own; nothing here is needed to load it."""
