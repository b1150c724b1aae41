"""The protocol buffers of the gRPC wire: ``messaging.proto``, and what is generated from it."""
