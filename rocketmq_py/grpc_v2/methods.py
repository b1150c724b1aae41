"""The methods of the service, as a client calls and a server offers them: read from ``messaging.proto``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb

_SERVICE = pb.DESCRIPTOR.services_by_name["MessagingService"]

SERVICE_NAME: str = _SERVICE.full_name


class Method(NamedTuple):
    """A remote procedure.

    Attributes:
        path: what travels as HTTP/2's ``:path``.
        request, response: classes in ``messaging_pb2``.
        request_streaming, response_streaming: whether many of them travel in one call.
    """

    path: str
    request: type[Message]
    response: type[Message]
    request_streaming: bool
    response_streaming: bool


METHODS: Mapping[str, Method] = {
    method.name: Method(
        f"/{SERVICE_NAME}/{method.name}",
        GetMessageClass(method.input_type),
        GetMessageClass(method.output_type),
        method.client_streaming,
        method.server_streaming,
    )
    for method in _SERVICE.methods
}
