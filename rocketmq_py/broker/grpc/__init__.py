"""The RPCs of RocketMQ 5's proxy, served by the embedded broker itself. Source: proxy/grpc/v2."""
