"""The embedded broker: name server and broker in one process, on one SQLite file. For development, tests and demos."""
