"""RocketMQ's remoting protocol.

``frame``, ``bodies`` and ``message_codec`` are bytes in and bytes out; ``connection`` does the I/O.
"""
