"""Bodies compressed and decompressed. Source: Compressor and its three classes."""

from __future__ import annotations

import zlib
from typing import Any, Protocol

from rocketmq_py.errors import ConfigError, MissingExtraError, ProtocolError
from rocketmq_py.model.codes import MessageSysFlag

MAX_DECOMPRESSED_BYTES = 128 * 1024 * 1024
"""What the bodies of one reply may decompress to: 32 messages, the most a broker gives per pull, of 4 MiB each, the
largest body that producers send by default."""

COMPRESSION_LEVEL = 5
"""Source: DefaultMQProducer, ``rocketmq.message.compressLevel``."""


def compress(body: bytes, compression: int, level: int = COMPRESSION_LEVEL) -> bytes:
    """Compress a body.

    Args:
        body: what to compress.
        compression: one of ``MessageSysFlag.COMPRESSION_*``, to be set with ``COMPRESSED``.
        level: 0..9 for zlib, 1..22 for zstd, without effect on lz4.

    Raises:
        MissingExtraError: the library is not installed.
    """
    if compression == MessageSysFlag.COMPRESSION_ZLIB:
        return zlib.compress(body, level)
    if compression == MessageSysFlag.COMPRESSION_LZ4:
        # Java's reader refuses blocks that depend on one another.
        return bytes(_library("lz4.frame").compress(body, block_linked=False))
    if compression == MessageSysFlag.COMPRESSION_ZSTD:
        return bytes(_library("zstandard").ZstdCompressor(level=level).compress(body))
    raise ConfigError(f"{compression:#x} is none of MessageSysFlag.COMPRESSION_*")


def decompress(body: bytes, sys_flag: int, max_bytes: int = MAX_DECOMPRESSED_BYTES) -> bytes:
    """Decompress a body by the type in its message's system flag.

    Raises:
        ProtocolError: it is damaged, cut short or larger than ``max_bytes``.
        MissingExtraError: the library is not installed.
    """
    compression = sys_flag & MessageSysFlag.COMPRESSION_TYPE_MASK
    damaged: type[Exception]
    decompressor: _Decompressor
    if compression in {0, MessageSysFlag.COMPRESSION_ZLIB}:  # 0: producers from before there was a type
        decompressor, damaged = zlib.decompressobj(), zlib.error
    elif compression == MessageSysFlag.COMPRESSION_LZ4:
        decompressor, damaged = _library("lz4.frame").LZ4FrameDecompressor(), RuntimeError
    elif compression == MessageSysFlag.COMPRESSION_ZSTD:
        zstandard = _library("zstandard")
        decompressor, damaged = zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
    else:
        raise ProtocolError(f"has a body of the unknown compression type {compression >> 8}")
    try:
        return _decompressed(decompressor, body, max_bytes)
    except damaged as error:
        raise ProtocolError(f"has a body that does not decompress: {error}") from None


class _Decompressor(Protocol):
    """What the three libraries have in common."""

    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, /) -> bytes: ...


_SLICE_BYTES = 4_096
_EXPANSION_MAX = 32 * 1024  # zstd: 4 bytes may stand for 128 KiB; lz4 reaches 255, zlib 1,032


def _decompressed(decompressor: _Decompressor, body: bytes, max_bytes: int) -> bytes:
    # Fed in slices that cannot expand to much more than what is still allowed: the libraries' own limits allocate the
    # whole limit beforehand (lz4), or hide that the end is missing (zstd).
    pieces: list[bytes] = []
    left = max_bytes
    position = 0
    while position < len(body) and not decompressor.eof:
        end = position + min(_SLICE_BYTES, left // _EXPANSION_MAX + 1)
        pieces.append(decompressor.decompress(body[position:end]))
        position = end
        left -= len(pieces[-1])
        if left < 0:
            raise ProtocolError(f"has a body of {len(body)} bytes that decompresses to more than {max_bytes}")
    if not decompressor.eof:
        raise ProtocolError("has a compressed body that is cut short")
    return b"".join(pieces)


def _library(name: str) -> Any:
    """An optional dependency, loaded when the first body needs it."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(
            f"a message body is compressed, and {name.partition('.')[0]} is not installed: "
            "pip install 'rocketmq-py[compression]' (in a clone '.[compression]')"
        ) from None
