"""messaging.proto: what is generated from it, and that it is the protocol which the official clients speak."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rocketmq_py.grpc_v2.methods import METHODS
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from tests.wire import generate_proto

ROOT = Path(__file__).parents[2]

TOGETHER = """
import warnings
warnings.simplefilter("ignore")  # the official client's own
if {ours_first}:
    import rocketmq_py.grpc_v2.proto.messaging_pb2
from rocketmq.grpc_protocol import definition_pb2, service_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from rocketmq_py.grpc_v2.proto import messaging_pb2 as ours

def copied(module):
    file = FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    return file

# Used, both: what one writes the other reads.
sent = ours.Message(topic=ours.Resource(name="t"), user_properties=dict(k="v"), body=b"body")
sent.system_properties.message_type = ours.FIFO
sent.system_properties.born_timestamp.FromMilliseconds(1_700_000_000_123)
read = definition_pb2.Message.FromString(sent.SerializeToString())
assert read.body == b"body" and read.user_properties["k"] == "v" and read.system_properties.message_type == 2
assert read.system_properties.born_timestamp.ToMilliseconds() == 1_700_000_000_123
assert ours.Message.FromString(read.SerializeToString()) == sent
answer = service_pb2.ReceiveMessageResponse(message=read)
assert ours.ReceiveMessageResponse.FromString(answer.SerializeToString()).message == sent

# Whatever the official client knows, ours has with the same number and type.
mine = copied(ours)
messages = {{message.name: message for message in mine.message_type}}
enums = {{enum.name: enum for enum in mine.enum_type}}
methods = {{(method.name, method.input_type, method.output_type, method.client_streaming, method.server_streaming)
           for method in mine.service[0].method}}
compared = 0
for theirs in (copied(definition_pb2), copied(service_pb2)):
    assert theirs.package == mine.package
    for message in theirs.message_type:
        fields = {{field.name: (field.number, field.type, field.type_name, field.label, field.proto3_optional)
                  for field in messages[message.name].field}}
        for field in message.field:
            assert fields[field.name] == (field.number, field.type, field.type_name, field.label, field.proto3_optional)
            compared += 1
    for enum in theirs.enum_type:
        values = {{value.name: value.number for value in enums[enum.name].value}}
        for value in enum.value:
            assert values[value.name] == value.number
            compared += 1
    for service in theirs.service:
        for method in service.method:
            assert (method.name, method.input_type, method.output_type, method.client_streaming,
                    method.server_streaming) in methods
            compared += 1
print(compared)
"""


@pytest.mark.behaviour("GW-01")
def test_the_committed_generated_code_is_what_the_proto_gives() -> None:
    file, types = generate_proto.described()
    assert generate_proto.CODE.read_text(encoding="utf-8") == generate_proto.code(file)
    assert generate_proto.TYPES.read_text(encoding="utf-8") == types


@pytest.mark.behaviour("GW-02")
@pytest.mark.parametrize("ours_first", [True, False])
def test_the_official_client_lives_in_the_same_process_and_speaks_the_same_protocol(
    ours_first: bool, tmp_path: Path
) -> None:
    # It writes its log into the home folder when it is imported.
    ran = subprocess.run(
        [sys.executable, "-c", TOGETHER.format(ours_first=ours_first)],
        capture_output=True, text=True, timeout=60, cwd=ROOT, env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) > 250


@pytest.mark.behaviour("GW-01")
def test_every_value_and_message_of_the_types_file_is_there_at_run_time() -> None:
    for name in ("OK", "MESSAGE_NOT_FOUND", "PUSH_CONSUMER", "TelemetryCommand", "Code"):
        assert hasattr(pb, name), name
    assert pb.Code.Name(pb.INVALID_RECEIPT_HANDLE) == "INVALID_RECEIPT_HANDLE"


@pytest.mark.behaviour("GW-01")
def test_methods_are_called_by_their_full_path_with_their_own_messages() -> None:
    receive = METHODS["ReceiveMessage"]
    assert receive.path == "/apache.rocketmq.v2.MessagingService/ReceiveMessage"
    assert (receive.request, receive.response) == (pb.ReceiveMessageRequest, pb.ReceiveMessageResponse)
    assert (receive.request_streaming, receive.response_streaming) == (False, True)
    telemetry = METHODS["Telemetry"]
    assert (telemetry.request_streaming, telemetry.response_streaming) == (True, True)
