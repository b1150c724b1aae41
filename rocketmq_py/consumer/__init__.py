"""The push consumer's internals: state and decisions without sockets, threads or clocks of their own."""
