"""Acknowledgements that come together travel together.

A request for each message would cost a quarter of a millisecond of processor time each; a server takes many entries.
Nothing waits for company: while few requests are under way the next one leaves at once, with whatever has come.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from rocketmq_py.errors import ProtocolError
from rocketmq_py.grpc_v2.convert import resource
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.rpc_client import RpcClient
from rocketmq_py.grpc_v2.status import GrpcStatusError
from rocketmq_py.runtime import Mutex

BATCH_MAX = 64
"""Entries per request. A proxy makes a call to the broker of each, and has two seconds for them."""

UNDER_WAY_MAX = 4
"""Requests under way per topic and server; a further one leaves only when it is full."""

OnDone = Callable[[Exception | None], None]


class _Entry(NamedTuple):
    message_id: str
    receipt: str
    on_done: OnDone


class AckBatcher:
    """For one group, topic and server. Any thread may call it; nothing blocks.

    Lock: ``_lock`` guards what waits and the count of requests. What waits is bounded by the limits of the cache: a
    message counts there until its acknowledgement was answered.

    Behaviour: GW-06.
    """

    def __init__(self, rpc: RpcClient, group: str, topic: str) -> None:
        self._rpc = rpc
        self._group = group
        self._topic = topic
        self._lock = Mutex()
        self._waiting: list[_Entry] = []
        self._under_way = 0

    def add(self, message_id: str, receipt: str, timeout_ms: int, on_done: OnDone) -> None:
        """Acknowledge a message."""
        with self._lock:
            self._waiting.append(_Entry(message_id, receipt, on_done))
            taken = self._taken()
        if taken:
            self._send(taken, timeout_ms)

    def _taken(self) -> list[_Entry]:
        """What is to leave now; the caller holds the lock."""
        if not self._waiting or (self._under_way and len(self._waiting) < BATCH_MAX):
            return []
        if self._under_way >= UNDER_WAY_MAX:
            return []
        taken, self._waiting = self._waiting[:BATCH_MAX], self._waiting[BATCH_MAX:]
        self._under_way += 1
        return taken

    def _send(self, entries: list[_Entry], timeout_ms: int) -> None:
        request = pb.AckMessageRequest(
            group=resource(self._group),
            topic=resource(self._topic),
            entries=[pb.AckMessageEntry(message_id=each.message_id, receipt_handle=each.receipt) for each in entries],
        )

        def on_result(response: pb.AckMessageResponse) -> None:
            self._on_answered(timeout_ms)
            for entry, error in zip(entries, self._outcomes(entries, response), strict=True):
                entry.on_done(error)

        def on_error(error: Exception) -> None:
            # What waits fails with it: whoever asked tries again later. Sending it here could go on and on.
            with self._lock:
                self._under_way -= 1
                waiting, self._waiting = self._waiting, []
            for entry in (*entries, *waiting):
                entry.on_done(error)

        self._rpc.invoke_async("AckMessage", request, timeout_ms, on_result, on_error)

    def _on_answered(self, timeout_ms: int) -> None:
        with self._lock:
            self._under_way -= 1
            taken = self._taken()
        if taken:
            self._send(taken, timeout_ms)

    def _outcomes(self, entries: list[_Entry], response: pb.AckMessageResponse) -> list[Exception | None]:
        """How each ended. The reply's entries may come in another order, and are missing when it failed as a whole."""
        if response.status.code == pb.OK:
            return [None] * len(entries)
        if not response.entries:
            whole = GrpcStatusError(response.status, self._rpc.address, "AckMessage")
            return [whole] * len(entries)
        by_receipt = {(each.message_id, each.receipt_handle): each.status for each in response.entries}
        return [self._outcome(by_receipt.get((entry.message_id, entry.receipt))) for entry in entries]

    def _outcome(self, status: pb.Status | None) -> Exception | None:
        if status is None:
            return ProtocolError(f"AckMessage: {self._rpc.address} does not say how one of several ended")
        return None if status.code == pb.OK else GrpcStatusError(status, self._rpc.address, "AckMessage")
