"""RocketMQ 5's gRPC protocol. Imports ``grpc`` and ``google.protobuf``: load it only when a gRPC address is used."""
