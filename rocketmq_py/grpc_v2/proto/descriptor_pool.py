"""A descriptor pool of our own, and the classes of its messages.

Every client of this protocol describes messages of the same names. protobuf's default pool takes a name only once per
process, so whoever came second would not start; in a pool of our own nobody else's names matter. The price: a
``google.protobuf.Duration`` of the default pool cannot be assigned here; set fields of time by ``FromMilliseconds``.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from google.protobuf import duration_pb2, timestamp_pb2
from google.protobuf.descriptor import EnumDescriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message_factory import GetMessageClass

FILE_NAME = "messaging.proto"


def define(serialized_file: bytes, namespace: MutableMapping[str, Any]) -> FileDescriptor:
    """Describe a .proto file in a new pool and put its messages, enumerations and their values into ``namespace``."""
    pool = DescriptorPool()
    for known in (duration_pb2, timestamp_pb2):
        pool.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(serialized_file)
    file: FileDescriptor = pool.FindFileByName(FILE_NAME)
    for name, message in file.message_types_by_name.items():
        namespace[name] = GetMessageClass(message)
    for name, enum in file.enum_types_by_name.items():
        _define_enum(name, enum, namespace)
    return file


def _define_enum(name: str, enum: EnumDescriptor, namespace: MutableMapping[str, Any]) -> None:
    namespace[name] = EnumTypeWrapper(enum)
    for value in enum.values:
        namespace[value.name] = value.number
