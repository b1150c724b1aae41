"""Where topics lie, and what a consumer is to receive from. Source: RouteActivity."""

from __future__ import annotations

from rocketmq_py.broker.attributes import MESSAGE_TYPE
from rocketmq_py.broker.grpc.context import GrpcProxyError, ProxyContext, check_group, check_topic, ok
from rocketmq_py.broker.topic_config import TopicConfig, TopicConfigManager
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import MASTER_ID, PermName

_READ_WRITE = PermName.READ | PermName.WRITE

ALL_QUEUES = -1
"""The queue of an assignment that means all of a broker's."""

_PERMISSIONS = {
    _READ_WRITE: pb.READ_WRITE,
    PermName.READ: pb.READ,
    PermName.WRITE: pb.WRITE,
    0: pb.NONE,
}
_MIXED = (pb.NORMAL, pb.FIFO, pb.DELAY, pb.TRANSACTION)
_TYPES = {
    "NORMAL": (pb.NORMAL,),
    "FIFO": (pb.FIFO,),
    "DELAY": (pb.DELAY,),
    "TRANSACTION": (pb.TRANSACTION,),
    "PRIORITY": (pb.PRIORITY,),
    "LITE": (pb.LITE,),
    "MIXED": _MIXED,
}


def accepted_types(config: TopicConfig) -> tuple[pb.MessageType, ...]:
    """Kinds of messages that a topic takes."""
    return _TYPES.get(config.attributes.get(MESSAGE_TYPE, "NORMAL"), (pb.MESSAGE_TYPE_UNSPECIFIED,))


class RouteActivity:
    """Answers from the broker's tables. On the loop's thread only.

    Args:
        host: address of the gRPC port, for clients that do not say how they reach it.
        port: its number.
    """

    def __init__(self, topics: TopicConfigManager, broker_name: str, host: str, port: int) -> None:
        self._topics = topics
        self._broker_name = broker_name
        self._own = pb.Endpoints(
            scheme=pb.IPv6 if ":" in host else pb.IPv4, addresses=[pb.Address(host=host, port=port)]
        )

    def query_route(self, context: ProxyContext, request: pb.QueryRouteRequest) -> pb.QueryRouteResponse:
        """Tell the queues of a topic."""
        config = self._topic(request.topic)
        broker = self._broker(request.endpoints)
        types = accepted_types(config)
        response = pb.QueryRouteResponse(status=ok())
        for queue_id, permission in enumerate(_queue_permissions(config)):
            response.message_queues.add(
                topic=request.topic, id=queue_id, permission=permission, broker=broker, accept_message_types=types
            )
        return response

    def query_assignment(self, context: ProxyContext, request: pb.QueryAssignmentRequest) -> pb.QueryAssignmentResponse:
        """Tell what a group's members receive from: the same to each of them, the broker shares out."""
        config = self._topic(request.topic)
        group = self._topics.group(check_group(request.group))
        if not config.perm & PermName.READ or config.readQueueNums <= 0:
            raise GrpcProxyError(pb.FORBIDDEN, "no readable queue")
        is_fifo = group is not None and group.consumeMessageOrderly
        broker = self._broker(request.endpoints)
        permission = _PERMISSIONS[config.perm & _READ_WRITE]
        response = pb.QueryAssignmentResponse(status=ok())
        for queue_id in range(config.readQueueNums) if is_fifo else (ALL_QUEUES,):
            response.assignments.add().message_queue.MergeFrom(
                pb.MessageQueue(topic=request.topic, id=queue_id, permission=permission, broker=broker)
            )
        return response

    def _topic(self, topic: pb.Resource) -> TopicConfig:
        name = check_topic(topic)
        config = self._topics.topic(name)
        if config is None:
            raise GrpcProxyError(pb.TOPIC_NOT_FOUND, f"no topic route info for the topic {name}: create it first")
        return config

    def _broker(self, endpoints: pb.Endpoints) -> pb.Broker:
        """This broker, by the address at which the client sees it: it may be another than ours."""
        reached = endpoints if endpoints.addresses else self._own
        return pb.Broker(name=self._broker_name, id=MASTER_ID, endpoints=reached)


def _queue_permissions(config: TopicConfig) -> list[pb.Permission]:
    """Permissions of the queues by their ids; a topic that nobody may use has its queues all the same.

    Deviation: upstream numbers the queues of one kind only first, although the highest ones are those.
    """
    reads = config.readQueueNums if config.perm & PermName.READ else 0
    writes = config.writeQueueNums if config.perm & PermName.WRITE else 0
    return [
        _PERMISSIONS[(PermName.READ if queue_id < reads else 0) | (PermName.WRITE if queue_id < writes else 0)]
        for queue_id in range(max(reads, writes) or config.queues)
    ]
