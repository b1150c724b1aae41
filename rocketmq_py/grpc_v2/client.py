"""What a client of the gRPC wire has: an id, a session with every server of its topics, routes, timers.

Each consumer and each producer is a client of its own, as servers keep one kind of settings per client id.

Source: ClientImpl, ClientManagerImpl, ClientId of the Java gRPC client.
"""

from __future__ import annotations

import itertools
import os
import platform
import socket
from typing import Any

from rocketmq_py.errors import IllegalStateError
from rocketmq_py.grpc_v2.convert import resource
from rocketmq_py.grpc_v2.endpoints import Endpoints
from rocketmq_py.grpc_v2.headers import CLIENT_VERSION, Headers
from rocketmq_py.grpc_v2.proto import messaging_pb2 as pb
from rocketmq_py.grpc_v2.rpc_client import RpcClient
from rocketmq_py.grpc_v2.session import Role, Session
from rocketmq_py.grpc_v2.status import check
from rocketmq_py.grpc_v2.tls import channel_credentials
from rocketmq_py.model.config import ClientConfig
from rocketmq_py.runtime import Mutex, Runtime

HEARTBEAT_FIRST_MS = 1_000
HEARTBEAT_MS = 10_000
"""At most: a server forgets a client that it has not heard of for two minutes."""

SETTINGS_SYNC_MS = 300_000

_numbers = itertools.count()


def make_client_id(runtime: Runtime) -> str:
    """``host@pid@number@time``, never twice. Source: ClientId."""
    return f"{socket.gethostname()}@{os.getpid()}@{next(_numbers)}@{runtime.clock.wall_ms():x}"


class GrpcClient:
    """Any thread may call it. Lock: ``_lock`` guards the sessions and the table of brokers.

    Attributes:
        endpoints: the servers that the user named.
        scheduler: one thread for short jobs.
    """

    def __init__(self, config: ClientConfig, role: Role, runtime: Runtime) -> None:
        self.endpoints = Endpoints.parse(config.endpoints)
        self.client_id = make_client_id(runtime)
        self._pid = os.getpid()
        self._role = role
        self._runtime = runtime
        self._timeout_ms = config.mq_client_api_timeout
        self._headers = Headers(self.client_id, config, runtime.clock)
        self._tls = channel_credentials(config, self.endpoints)
        self._lock = Mutex()
        self._sessions: dict[Endpoints, Session] = {}
        self._brokers: dict[str, Endpoints] = {}
        self._closed = False
        self.scheduler = runtime.scheduler("GrpcClientScheduledThread")
        period_ms = min(config.heartbeat_broker_interval, HEARTBEAT_MS)
        self.scheduler.schedule_at_fixed_rate(min(HEARTBEAT_FIRST_MS, period_ms), period_ms, self._heartbeat)
        self.scheduler.schedule_at_fixed_rate(SETTINGS_SYNC_MS, SETTINGS_SYNC_MS, self.sync_settings)

    @property
    def forked(self) -> bool:
        """Whether this is a forked child, in which the client's threads do not exist."""
        return os.getpid() != self._pid

    def start(self) -> None:
        """Open the session with the servers that the user named and wait for their settings.

        Raises:
            RocketMQError: they cannot be reached, refuse this client, or answer no settings.
        """
        self.session(self.endpoints).await_settings()

    # Sessions.

    def session(self, endpoints: Endpoints) -> Session:
        """The session with a server; it is opened when there is none yet."""
        with self._lock:
            if self._closed:
                raise IllegalStateError("the client is shut down")
            found = self._sessions.get(endpoints)
            if found is None:
                credentials, options = self._tls
                rpc = RpcClient(endpoints, self._headers, credentials, options)
                found = self._sessions[endpoints] = Session(
                    rpc, self._role, self._runtime, self._timeout_ms, awaited=endpoints == self.endpoints
                )
            return found

    def session_of(self, broker_name: str) -> Session:
        """The session through which a broker is reached."""
        with self._lock:
            endpoints = self._brokers.get(broker_name, self.endpoints)
        return self.session(endpoints)

    def sessions(self) -> list[Session]:
        """All of them."""
        with self._lock:
            return list(self._sessions.values())

    def sync_settings(self) -> None:
        """Tell all servers what this client wants now."""
        for session in self.sessions():
            session.send_settings()

    def _heartbeat(self) -> None:
        for session in self.sessions():
            session.heartbeat()

    # Routes.

    def query_route(self, topic: str) -> list[pb.MessageQueue]:
        """The queues of a topic. Blocks.

        Raises:
            BrokerError: there is no such topic, and others.
            TransportError: no answer.
        """
        request = pb.QueryRouteRequest(topic=resource(topic), endpoints=self.endpoints.message())
        response = self._ask("QueryRoute", request, topic)
        return self._noted(response.message_queues)

    def query_assignment(self, topic: str, group: str) -> list[pb.MessageQueue]:
        """The queues from which every member of a group is to receive. Blocks; raises as ``query_route``."""
        request = pb.QueryAssignmentRequest(
            topic=resource(topic), group=resource(group), endpoints=self.endpoints.message()
        )
        response = self._ask("QueryAssignment", request, topic)
        return self._noted([assignment.message_queue for assignment in response.assignments])

    def _ask(self, name: str, request: Any, topic: str) -> Any:
        rpc = self.session(self.endpoints).rpc
        response = rpc.invoke(name, request, self._timeout_ms)
        check(response.status, rpc.address, f"{name} of topic {topic}")
        return response

    def _noted(self, queues: Any) -> list[pb.MessageQueue]:
        """Remember by which address each broker is reached, and open a session with it."""
        brokers: dict[str, Endpoints] = {}
        for queue in queues:
            if queue.broker.name not in brokers and queue.broker.endpoints.addresses:
                brokers[queue.broker.name] = Endpoints.of(queue.broker.endpoints)
        with self._lock:
            self._brokers.update(brokers)
        for endpoints in set(brokers.values()):
            self.session(endpoints)
        return list(queues)

    # End.

    def leave(self) -> None:
        """Tell all servers that this client ends."""
        for session in self.sessions():
            session.leave()

    def close(self) -> None:
        """End all sessions and timers."""
        with self._lock:
            self._closed = True
            sessions = list(self._sessions.values())
        self.scheduler.shutdown()
        for session in sessions:
            session.close()


def user_agent() -> pb.UA:
    """Who this is, for settings."""
    return pb.UA(
        language=pb.PYTHON,
        version=CLIENT_VERSION,
        platform=f"{platform.system()} {platform.release()}",
        hostname=socket.gethostname(),
    )
