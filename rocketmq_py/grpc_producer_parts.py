"""What a running producer consists of when it speaks gRPC."""

from __future__ import annotations

from rocketmq_py.errors import ConfigError
from rocketmq_py.grpc_v2.client import GrpcClient
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.message_sender import Check, GrpcMessageSender, ProducerRole
from rocketmq_py.model.config import ProducerConfig
from rocketmq_py.model.producer_hooks import ProducerHooks
from rocketmq_py.model.unique_id import create_uniq_id
from rocketmq_py.remoting.async_sender import AsyncSender
from rocketmq_py.runtime import Runtime


class GrpcProducerParts:
    """Made by ``start``, which waits for the server's settings; thrown away by ``shutdown``.

    Raises:
        ConfigError: something is set that cannot work on this wire.
        RocketMQError: the server cannot be reached, or refuses this client.
    """

    def __init__(self, config: ProducerConfig, hooks: ProducerHooks, runtime: Runtime, check: Check | None) -> None:
        if config.rpc_hook is not None:
            raise ConfigError("endpoints: rpc_hook cannot work on the gRPC wire: there are no remoting commands")
        if config.namespace_v2 is not None:
            raise ConfigError("endpoints: namespace_v2 cannot work on the gRPC wire: remoting requests name it")
        if hooks.send_message or hooks.check_forbidden:
            raise ConfigError("endpoints: hooks of sends are not offered on the gRPC wire")
        if config.enable_msg_trace:
            raise ConfigError("endpoints: enable_msg_trace is not offered on the gRPC wire")
        if config.unit_mode:
            raise ConfigError("endpoints: unit_mode cannot work on the gRPC wire: it tells no server of the mark")
        topics = [config.with_namespace(topic) for topic in config.topics]
        self.role = ProducerRole(Endpoints.parse(config.endpoints), config, topics, check)
        self.client = GrpcClient(config, self.role, runtime)
        self.sender = GrpcMessageSender(self.client, self.role, config, runtime, lambda: create_uniq_id(runtime.clock))
        self.async_sender = AsyncSender(self.sender, config, runtime)
        try:
            self.client.start()
        except BaseException:
            self.client.close()
            raise

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, in which nothing of this works."""
        return self.client.forked

    def note_published(self, topic: str) -> None:
        """The sender tells servers itself."""

    def await_next_try(self, topic: str, timeout_ms: int) -> int:
        """Nothing is awaited: grpcio has no such moments in which nobody tries."""
        return 0

    def shutdown(self) -> None:
        """End what runs here."""
        self.async_sender.shutdown()
        self.client.leave()
        self.client.close()
