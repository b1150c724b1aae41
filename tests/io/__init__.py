"""The real I/O against servers that lie, stall, break off and come back: loopback sockets, real threads."""
