"""A client at one server: the Telemetry stream with its settings and commands, heartbeats, and a connection that is
made anew when it went silent.

Source: ClientSessionImpl, ClientImpl, ClientManagerImpl of the Java gRPC client.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Protocol

import grpc
from google.protobuf.message import DecodeError

from rocketmq_py.errors import ConnectError, RequestTimeoutError, RocketMQError, TransportError
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.rpc_client import Call, RpcClient
from rocketmq_py.grpc_v2.status import GrpcStatusError, HandshakeError, check
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex, Queue, Runtime

REOPEN_MS = 1_000
"""After a stream ended. Source: TelemetrySession's REQUEST_OBSERVER_RENEWAL_BACKOFF_DELAY."""

SETTINGS_TIMEOUT_MS = 3_000
"""For the first settings of a server, beside a request's time-out. Source: SETTINGS_INITIALIZATION_TIMEOUT."""

RESEND_MS = 1_000
"""Settings that are asked for out of turn are sent at most once in this time."""

HEARTBEATS_FAILED_MAX = 2
"""So many heartbeats in a row without an answer: the connection is taken for dead."""

RESET_INTERVAL_MS = 30_000
"""Between two new connections that are made for this reason."""

JOIN_MS = 1_000

_log = logging.getLogger(__name__)


class Role(Protocol):
    """What a client is: consumer or producer. Called on threads of sessions; must not block."""

    @property
    def group(self) -> str | None:
        """Of a consumer."""
        ...

    @property
    def client_type(self) -> pb.ClientType:
        """As servers know it."""
        ...

    def settings(self) -> pb.Settings:
        """What servers are told."""
        ...

    def has_nothing(self) -> bool:
        """Whether servers keep messages for it, and it has none now."""
        ...

    def on_settings(self, settings: pb.Settings) -> None:
        """What a server decided.

        Raises:
            ProtocolError: it cannot be used.
        """
        ...

    def on_command(self, session: Session, command: pb.TelemetryCommand) -> None:
        """Any other command of a server."""
        ...


class Session:
    """One per client and server. Any thread may call it.

    Lock: ``_lock`` guards the stream and the counts.

    Args:
        awaited: somebody calls ``await_settings`` and is told there what goes wrong: until then no warning tells it.
    """

    def __init__(self, rpc: RpcClient, role: Role, runtime: Runtime, timeout_ms: int, *, awaited: bool = False) -> None:
        self.rpc = rpc
        self._role = role
        self._runtime = runtime
        self._now_ms = runtime.clock.monotonic_ms
        self._timeout_ms = timeout_ms
        self._warnings = RateLimitedLog(runtime.clock, _log)
        self._lock = Mutex()
        self._outgoing: Queue[pb.TelemetryCommand | None] | None = None
        self._call: Call | None = None
        self._resent_ms = 0
        self._heartbeats_failed = 0
        self._lost_until_ms = 0  # till then a server may write into a connection that is none any more
        self._claim_from_ms: int | None = None  # what got lost is to be claimed from then on
        self._reset_ms = self._now_ms() - RESET_INTERVAL_MS
        self._stopped = runtime.event()
        self._awaited = awaited
        self._answered = runtime.event()
        self._settled = False
        self._failure: RocketMQError | None = None
        self._thread = runtime.start_thread(f"GrpcTelemetry_{rpc.address}", self._run)

    # Settings and commands.

    def await_settings(self) -> None:
        """Wait for the server's first settings; no longer when it refuses this client, or its certificate is wrong.

        Raises:
            RocketMQError: it sent none; what is known of the reason.
        """
        self._answered.wait(SETTINGS_TIMEOUT_MS + self._timeout_ms)
        if not self._settled:
            raise self._failure or RequestTimeoutError(
                f"{self.rpc.address} answered no settings: is it the gRPC port of a RocketMQ 5 proxy?"
            )
        self._awaited = False

    def _failed(self, failure: RocketMQError) -> None:
        """There are no settings."""
        self._failure = failure
        if isinstance(failure, HandshakeError) or (isinstance(failure, GrpcStatusError) and not failure.retriable):
            self._answered.set()

    def _warn(self, key: str, message: str, *args: object) -> None:
        if self._awaited:
            _log.info(message, *args)
        else:
            self._warnings.warning(key, message, *args)

    def send_settings(self) -> None:
        """Tell the server what this client wants now; a stream that is opened begins with it anyway."""
        self.send(pb.TelemetryCommand(settings=self._role.settings()))

    def settings_lost(self) -> None:
        """The server says, or it looks as if, it has no settings of this client: send them, not too often."""
        now_ms = self._now_ms()
        with self._lock:
            if now_ms - self._resent_ms < RESEND_MS:
                return
            self._resent_ms = now_ms
        self.send_settings()

    def send(self, command: pb.TelemetryCommand) -> None:
        """Send on the stream, if there is one."""
        with self._lock:
            outgoing = self._outgoing
        if outgoing is not None:
            outgoing.put(command)

    def _run(self) -> None:
        while not self._stopped.is_set():
            outgoing: Queue[pb.TelemetryCommand | None] = self._runtime.queue()
            outgoing.put(pb.TelemetryCommand(settings=self._role.settings()))
            try:
                self._follow(outgoing)
                failure = self._failure or ConnectError(f"{self.rpc.address} ended the Telemetry stream")
            except grpc.RpcError as error:
                failure = self.rpc.error(error, "Telemetry")
            except RocketMQError as error:
                failure = error
            finally:
                with self._lock:
                    self._outgoing = self._call = None
                outgoing.put(None)
            if not self._stopped.is_set():
                self._failed(failure)
                self._warn("stream", "the stream to %s is opened again: %s", self.rpc.address, failure)
            self._stopped.wait(REOPEN_MS)

    def _follow(self, outgoing: Queue[pb.TelemetryCommand | None]) -> None:
        call = self.rpc.telemetry(_until_none(outgoing))
        with self._lock:
            self._outgoing, self._call = outgoing, call
        if self._stopped.is_set():
            call.cancel()
        for raw in call:
            try:
                self._take(pb.TelemetryCommand.FromString(raw))
            except DecodeError as error:
                self._warnings.warning("command", "%s sent a command that cannot be read: %s", self.rpc.address, error)
            except Exception:  # noqa: BLE001 - border: a bad command must not end the stream
                _log.exception("a command of %s failed", self.rpc.address)

    def _take(self, command: pb.TelemetryCommand) -> None:
        """Behaviour: GW-08."""
        if command.HasField("status"):
            try:
                check(command.status, self.rpc.address, "Telemetry")
            except GrpcStatusError as error:
                self._failed(error)
                self._warn("status", "%s", error)
                return
        kind = command.WhichOneof("command")
        if kind == "settings":
            try:
                self._role.on_settings(command.settings)
            except RocketMQError as error:
                self._failed(error)
                self._warn("settings", "settings of %s are not used: %s", self.rpc.address, error)
                return
            self._failure = None
            self._settled = True
            self._answered.set()
        elif kind == "reconnect_endpoints_command":
            self.rpc.reset()
        elif kind is not None:
            self._role.on_command(self, command)

    # Heartbeats.

    def heartbeat(self) -> None:
        """Tell the server that this client lives; returns at once."""
        request = pb.HeartbeatRequest(client_type=self._role.client_type)
        if self._role.group is not None:
            request.group.name = self._role.group
        self.rpc.invoke_async("Heartbeat", request, self._timeout_ms, self._on_heartbeat, self._on_heartbeat_failed)

    def _on_heartbeat(self, response: pb.HeartbeatResponse) -> None:
        with self._lock:
            self._heartbeats_failed = 0
            claim_from_ms = self._claim_from_ms
        if response.status.code == pb.UNRECOGNIZED_CLIENT_TYPE:
            _log.info("%s has no settings of this client, they are sent again", self.rpc.address)
            self.settings_lost()
        elif response.status.code != pb.OK:
            check(response.status, self.rpc.address, "Heartbeat")
        elif claim_from_ms is not None and self._now_ms() >= claim_from_ms and self._role.has_nothing():
            self._claim_lost()

    def _on_heartbeat_failed(self, error: Exception) -> None:
        if self._stopped.is_set():
            return
        self._warn("heartbeat", "a heartbeat to %s failed: %s", self.rpc.address, error)
        if not isinstance(error, TransportError):
            return
        now_ms = self._now_ms()
        with self._lock:
            self._heartbeats_failed += 1
            silent = self._heartbeats_failed >= HEARTBEATS_FAILED_MAX and now_ms - self._reset_ms >= RESET_INTERVAL_MS
            if silent:
                self._heartbeats_failed, self._reset_ms = 0, now_ms
        if silent:
            self._warn("silent", "%s has been silent for long, a new connection is made", self.rpc.address)
            # Closing a channel waits for the thread that this runs on.
            self._runtime.start_thread(f"GrpcReset_{self.rpc.address}", self.rpc.reset)

    def answers_lost(self, held_ms: int) -> None:
        """A receive broke: what the server answered, or will within ``held_ms``, may have got lost on the way."""
        with self._lock:
            now_ms = self._now_ms()
            self._lost_until_ms = max(self._lost_until_ms, now_ms + held_ms)
            self._claim_from_ms = now_ms

    def _claim_lost(self) -> None:
        """What the server wrote into a connection that broke or fell silent it would keep for this client, up to three
        hours. It gives it out again when the client leaves: so it leaves, at a moment at which it has nothing else, and
        is back at once. It does so a second time when no receive that broke can be held any more.

        Behaviour: GW-14.
        """
        with self._lock:
            self._claim_from_ms = self._lost_until_ms if self._now_ms() < self._lost_until_ms else None
        self.rpc.invoke_async(
            "NotifyClientTermination", self._termination(), self._timeout_ms, self._on_left, self._on_leaving_failed
        )

    def _on_left(self, response: pb.NotifyClientTerminationResponse) -> None:
        self.send_settings()
        check(response.status, self.rpc.address, "NotifyClientTermination")

    def _on_leaving_failed(self, error: Exception) -> None:
        with self._lock:
            self._claim_from_ms = self._now_ms()
        _log.info("what may have been lost on the way from %s is asked for later: %s", self.rpc.address, error)

    # End.

    def _termination(self) -> pb.NotifyClientTerminationRequest:
        request = pb.NotifyClientTerminationRequest()
        if self._role.group is not None:
            request.group.name = self._role.group
        return request

    def leave(self) -> None:
        """Tell the server that this client ends; what it was given goes to others soon. Waits for the answer."""
        try:
            response = self.rpc.invoke("NotifyClientTermination", self._termination(), self._timeout_ms)
            check(response.status, self.rpc.address, "NotifyClientTermination")
        except RocketMQError as error:
            _log.info("telling %s that this client ends failed: %s", self.rpc.address, error)

    def close(self) -> None:
        """End the stream and the connection."""
        self._stopped.set()
        with self._lock:
            call = self._call
        if call is not None:
            call.cancel()
        self._thread.join(JOIN_MS)
        self.rpc.close()


def _until_none(queue: Queue[pb.TelemetryCommand | None]) -> Iterator[pb.TelemetryCommand]:
    while (command := queue.get()) is not None:
        yield command
