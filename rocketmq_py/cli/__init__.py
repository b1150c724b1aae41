"""The command line, ``rocketmq-py``."""
