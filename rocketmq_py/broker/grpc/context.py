"""Who asks, and how refusals are said. Source: ProxyContext, GrpcProxyException, ResponseBuilder, GrpcValidator."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rocketmq_py.errors import BrokerError, ConfigError, ProtocolError, RocketMQError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model import names
from rocketmq_py.model.codes import ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")

INVISIBLE_MAX_MS = 12 * 60 * 60 * 1_000
"""Source: maxInvisibleTimeMills."""

ENTRIES_MAX = 1_000
"""Messages of a send, entries of an acknowledgement: others must not wait long behind them."""


@dataclass(frozen=True, slots=True)
class ProxyContext:
    """One call.

    Attributes:
        client_id: never empty.
        remote_address: ``host:port`` of the peer.
        remote_host: the same, packed as on the wire of the broker.
        client_version: as told, may be empty.
        language: one of ``remoting.frame.LANGUAGES``.
        remaining_ms: until the client gives up; None when it told no deadline.
    """

    client_id: str
    remote_address: str = "127.0.0.1:0"
    remote_host: bytes = bytes((127, 0, 0, 1, 0, 0, 0, 0))
    client_version: str = ""
    language: str = "OTHER"
    remaining_ms: int | None = None


class GrpcProxyError(RocketMQError):
    """A call is refused with this code. Source: GrpcProxyException."""

    def __init__(self, code: pb.Code, text: str) -> None:
        self.code = code
        super().__init__(text)


Failed = Callable[[Exception], None]
"""What is called when a call cannot be answered as hoped; ``status_of`` says it to the client."""

_CODES: dict[int, pb.Code] = {
    ResponseCode.SUCCESS: pb.OK,
    ResponseCode.SYSTEM_BUSY: pb.TOO_MANY_REQUESTS,
    ResponseCode.REQUEST_CODE_NOT_SUPPORTED: pb.NOT_IMPLEMENTED,
    ResponseCode.TOPIC_NOT_EXIST: pb.TOPIC_NOT_FOUND,
    ResponseCode.SUBSCRIPTION_GROUP_NOT_EXIST: pb.CONSUMER_GROUP_NOT_FOUND,
    ResponseCode.POLLING_FULL: pb.TOO_MANY_REQUESTS,
    # Upstream has no code for these and answers INTERNAL_SERVER_ERROR, which clients try again for ever.
    ResponseCode.NO_PERMISSION: pb.FORBIDDEN,
    ResponseCode.SUBSCRIPTION_PARSE_FAILED: pb.ILLEGAL_FILTER_EXPRESSION,
    ResponseCode.ILLEGAL_OPERATION: pb.BAD_REQUEST,
}


def ok() -> pb.Status:
    """The status that all went well."""
    return pb.Status(code=pb.OK, message="OK")


def status_of(error: Exception) -> pb.Status:
    """What a client is told of an error. Source: ResponseBuilder.buildStatus."""
    if isinstance(error, GrpcProxyError):
        return pb.Status(code=error.code, message=str(error))
    if isinstance(error, BrokerError):
        return pb.Status(code=_CODES.get(error.code, pb.INTERNAL_SERVER_ERROR), message=error.remark)
    return pb.Status(code=pb.INTERNAL_SERVER_ERROR, message=str(error) or type(error).__name__)


def summed_up(statuses: Iterable[pb.Status]) -> pb.Status:
    """The status of a reply whose entries have one each."""
    told = list(statuses)
    if len({status.code for status in told}) == 1:
        return told[0]
    return pb.Status(code=pb.MULTIPLE_RESULTS, message="each entry has its own status")


def succeeded(answer: RemotingCommand) -> RemotingCommand:
    """The broker's answer, if it is not a refusal.

    Raises:
        BrokerError: it is one.
    """
    if answer.code != ResponseCode.SUCCESS:
        raise BrokerError(answer.code, answer.remark or "")
    return answer


def check_topic(topic: pb.Resource) -> str:
    """The name of a topic that clients may use.

    Raises:
        GrpcProxyError: it is none.
    """
    try:
        names.check_topic(topic.name)
    except ConfigError as error:
        raise GrpcProxyError(pb.ILLEGAL_TOPIC, str(error)) from None
    if topic.name in names.SYSTEM_TOPICS or topic.name.startswith(names.SYSTEM_TOPIC_PREFIX):
        raise GrpcProxyError(pb.ILLEGAL_TOPIC, f"the topic {topic.name} is the system's own")
    return topic.name


def check_group(group: pb.Resource) -> str:
    """The name of a group that clients may use.

    Raises:
        GrpcProxyError: it is none.
    """
    try:
        names.check_group(group.name)
    except ConfigError as error:
        raise GrpcProxyError(pb.ILLEGAL_CONSUMER_GROUP, str(error)) from None
    if group.name.startswith(names.SYSTEM_CONSUMER_GROUP_PREFIX):
        raise GrpcProxyError(pb.ILLEGAL_CONSUMER_GROUP, f"the group {group.name} is the system's own")
    return group.name


def check_invisible_ms(duration_ms: int, least_ms: int = 0) -> None:
    """Refuse a time for which a message cannot be kept from others."""
    if not least_ms <= duration_ms <= INVISIBLE_MAX_MS:
        raise GrpcProxyError(
            pb.ILLEGAL_INVISIBLE_TIME,
            f"an invisible time of {duration_ms} ms, possible are {least_ms} to {INVISIBLE_MAX_MS} ms",
        )


def has_control_character(text: str) -> bool:
    """Whether a character of ISO control is in it."""
    return _CONTROL.search(text) is not None


def malformed(error: ProtocolError) -> GrpcProxyError:
    """A receipt that is none. Upstream: INTERNAL_SERVER_ERROR, with which clients try again for ever."""
    return GrpcProxyError(pb.INVALID_RECEIPT_HANDLE, str(error))
