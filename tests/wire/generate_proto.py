"""Generates ``rocketmq_py/grpc_v2/proto/messaging_pb2.py`` and its types from ``messaging.proto``.

python -m tests.wire.generate_proto            write both (needs the dependency group ``proto``)
python -m tests.wire.generate_proto --check    only say whether they are what the .proto gives

Not protoc's own Python: that goes into protobuf's default pool and works with few versions of protobuf. What is
generated is the description that every version reads; ``descriptor_pool`` makes the classes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorProto, FileDescriptorSet

PROTO = Path(__file__).parents[2] / "rocketmq_py" / "grpc_v2" / "proto" / "messaging.proto"
CODE = PROTO.with_name("messaging_pb2.py")
TYPES = PROTO.with_name("messaging_pb2.pyi")

_BYTES_PER_LINE = 24

_HEAD = '''\
"""Generated from messaging.proto by ``python -m tests.wire.generate_proto``: do not edit."""

from rocketmq_py.grpc_v2.proto.descriptor_pool import define

DESCRIPTOR = define(
'''


def described() -> tuple[FileDescriptorProto, str]:
    """What protoc makes of the .proto: its description and its types."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        command = [sys.executable, "-W", "ignore", "-m", "grpc_tools.protoc", f"--proto_path={PROTO.parent}"]
        command += [f"--descriptor_set_out={out / 'set'}", f"--pyi_out={out}", PROTO.name]
        subprocess.run(command, check=True, timeout=60)
        [file] = FileDescriptorSet.FromString((out / "set").read_bytes()).file
        return file, (out / TYPES.name).read_text(encoding="utf-8")


def code(file: FileDescriptorProto) -> str:
    """The module that describes the file."""
    raw = file.SerializeToString(deterministic=True)
    pieces = [raw[at : at + _BYTES_PER_LINE] for at in range(0, len(raw), _BYTES_PER_LINE)]
    lines = "".join(f"    {piece!r}\n" for piece in pieces)
    return f"{_HEAD}{lines}    , globals()\n)\n"


def main(arguments: list[str]) -> int:
    file, types = described()
    generated = {CODE: code(file), TYPES: types}
    if arguments == ["--check"]:
        stale = [path.name for path, text in generated.items() if path.read_text(encoding="utf-8") != text]
        sys.stdout.write(f"not what messaging.proto gives: {', '.join(stale)}\n" if stale else "up to date\n")
        return 1 if stale else 0
    for path, text in generated.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
