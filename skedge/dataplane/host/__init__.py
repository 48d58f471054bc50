"""What the host has and says: netlink, addresses, sockets, names, files of this boot."""
