"""Bodies as they travel: digests, and what they are compressed with. Pure."""

from __future__ import annotations

import hashlib
import zlib

from rocketmq_py.errors import ProtocolError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.model.codes import MessageSysFlag
from rocketmq_py.model.compression import MAX_DECOMPRESSED_BYTES, decompress

_GZIP = b"\x1f\x8b"
_COMPRESSIONS = (
    (b"\x78", MessageSysFlag.COMPRESSION_ZLIB),
    (b"\x04\x22\x4d\x18", MessageSysFlag.COMPRESSION_LZ4),
    (b"\x28\xb5\x2f\xfd", MessageSysFlag.COMPRESSION_ZSTD),
)
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


def digest_of(body: bytes) -> pb.Digest:
    """The digest of a body that is sent."""
    return pb.Digest(type=pb.MD5, checksum=_md5(body))


def check_digest(digest: pb.Digest, body: bytes) -> None:
    """Refuse a body that is not the one that was sent.

    Digests of kinds that are not known here are not checked.

    Raises:
        ProtocolError: it was damaged on the way.
    """
    said = digest.checksum.upper()
    if digest.type == pb.MD5:
        intact = said == _md5(body)
    elif digest.type == pb.SHA1:
        intact = said == hashlib.sha1(body, usedforsecurity=False).hexdigest().upper()
    elif digest.type == pb.CRC32:
        # Java writes no leading zeros, Python's official client does.
        intact = said.lstrip("0") == f"{zlib.crc32(body):X}".lstrip("0")
    else:
        return
    if not intact:
        raise ProtocolError(f"has a body of {len(body)} bytes that does not fit its {pb.DigestType.Name(digest.type)}")


def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest().upper()


def decoded(encoding: int, body: bytes, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """The body as its producer handed it over.

    A proxy says GZIP for whatever is compressed, so the first bytes decide.

    Raises:
        ProtocolError: it is damaged, too large, or compressed with nobody knows what.
        MissingExtraError: the library is not installed.
    """
    if encoding == pb.IDENTITY:
        return body
    if encoding != pb.GZIP:
        raise ProtocolError(f"has a body of the unknown encoding {encoding}")
    if body.startswith(_GZIP):
        return _gunzipped(body, max_bytes)
    for magic, compression in _COMPRESSIONS:
        if body.startswith(magic):
            return decompress(body, compression, max_bytes)
    raise ProtocolError(f"has a compressed body whose first bytes are of no compression known here: {body[:4].hex()}")


def _gunzipped(body: bytes, max_bytes: int) -> bytes:
    decompressor = zlib.decompressobj(_GZIP_WINDOW)
    try:
        data = decompressor.decompress(body, max_bytes)
    except zlib.error as error:
        raise ProtocolError(f"has a body that does not decompress: {error}") from None
    if decompressor.unconsumed_tail:
        raise ProtocolError(f"has a body of {len(body)} bytes that decompresses to more than {max_bytes}")
    if not decompressor.eof:
        raise ProtocolError("has a compressed body that is cut short")
    return data
