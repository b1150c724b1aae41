"""A real Apache RocketMQ on loopback: a name server, a broker and, when asked, a proxy, each a JVM of its own."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.apache.jars import QUIET, JavaError, classpath, java_command, program_command

BROKER_NAME = "broker-a"
CLUSTER_NAME = "DefaultCluster"
#: 18 delay levels, as a broker needs them; a consumer's first retry uses the third
FAST_DELAYS = "1s 1s 1s 1s " + " ".join(["2s"] * 14)

#: below the range from which a machine takes its outgoing ports, so that a port stays ours while its server is down
_PORTS = range(12_000, 32_000)
_START_TIMEOUT_S = 90.0
_POLL_S = 0.05
#: runs a command that dies with us: it is killed, with its process group, when the pipe on its standard input closes
_DIES_WITH_PARENT = 'exec 3<&0 </dev/null; { cat >/dev/null; kill -9 0; } <&3 3<&- & exec "$@" 3<&-'


@dataclass(frozen=True)
class Profile:
    """What a cluster is tuned for."""

    jvm: tuple[str, ...]
    namesrv: tuple[str, ...]
    broker: tuple[str, ...]
    proxy: tuple[str, ...]
    store: Mapping[str, object]


#: starts fast and stays small
TESTS = Profile(
    jvm=("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dtls.server.mode=disabled"),
    namesrv=("-Xmx128m", "-XX:MaxDirectMemorySize=64m"),
    broker=("-Xmx384m", "-XX:MaxDirectMemorySize=256m"),
    proxy=("-Xmx384m", "-XX:MaxDirectMemorySize=256m"),
    store={
        "mappedFileSizeCommitLog": 16 << 20,
        "mappedFileSizeConsumeQueue": 60_000,
        "mappedFileSizeTimerLog": 1 << 20,
        "maxIndexNum": 20_000,
        "maxHashSlotNum": 5_000,
    },
)
#: runs fast: both compilers, upstream's own collector, larger heaps and store files
BENCHMARK = Profile(
    jvm=("-Dtls.server.mode=disabled",),
    namesrv=("-Xmx256m",),
    broker=("-Xmx1g", "-XX:MaxDirectMemorySize=1g"),
    proxy=("-Xmx1g", "-XX:MaxDirectMemorySize=1g"),
    store={"mappedFileSizeCommitLog": 256 << 20},
)


class ClusterError(Exception):
    """The cluster did not do what was asked; the message carries the tail of its logs where they help."""


@dataclass(frozen=True)
class Reply:
    """A remoting response."""

    code: int
    remark: str
    ext: Mapping[str, str]
    body: bytes

    def checked(self, what: str) -> Reply:
        """This reply, or an exception when it is an error."""
        if self.code != 0:
            raise ClusterError(f"{what}: code {self.code} {self.remark}")
        return self


class Wire:
    """One remoting connection, spoken with the standard library alone.

    It shares no line with ``rocketmq_py``, so that a mistake there cannot hide itself here.
    """

    def __init__(self, addr: str, timeout_s: float = 5.0) -> None:
        host, port = addr.rsplit(":", 1)
        self._socket = socket.create_connection((host, int(port)), timeout_s)
        self._opaque = itertools.count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def call(self, code: int, ext: Mapping[str, object] | None = None, body: bytes = b"") -> Reply:
        """Send a request and wait for its response."""
        opaque = next(self._opaque)
        fields = {name: _text(value) for name, value in (ext or {}).items()}
        command = {"code": code, "language": "OTHER", "version": 513, "opaque": opaque, "flag": 0, "extFields": fields}
        header = json.dumps(command).encode()
        self._socket.sendall(struct.pack(">ii", 4 + len(header) + len(body), len(header)) + header + body)
        while True:
            (length,) = struct.unpack(">i", self._receive(4))
            frame = self._receive(length)
            (header_length,) = struct.unpack_from(">i", frame)
            answer = json.loads(frame[4 : 4 + header_length])
            if answer["flag"] & 1 and answer["opaque"] == opaque:
                remark, ext_fields = answer.get("remark") or "", answer.get("extFields") or {}
                return Reply(answer["code"], remark, ext_fields, frame[4 + header_length :])

    def _receive(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self._socket.recv(size - len(data))
            if not piece:
                raise ConnectionResetError("the server closed the connection")
            data += piece
        return data


def call(addr: str, code: int, ext: Mapping[str, object] | None = None, body: bytes = b"") -> Reply:
    """One request over a connection of its own."""
    with Wire(addr) as wire:
        return wire.call(code, ext, body)


@dataclass
class _Server:
    """One of the cluster's JVMs: how to start it, and the process while it runs."""

    name: str
    command: list[str]
    log: Path
    ports: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = field(default=None)


class ApacheCluster:
    """Name server, broker ``broker-a`` and, with ``proxy=True``, a proxy with its remoting and its gRPC port.

    Ports are chosen per run and clients are told loopback addresses only; upstream itself opens a broker's replication
    port and a proxy's two ports on every address. All that is written lies in one temporary folder, removed at the end.
    """

    def __init__(
        self,
        *,
        proxy: bool = False,
        profile: Profile = TESTS,
        delay_levels: str = FAST_DELAYS,
        broker_config: Mapping[str, object] | None = None,
        proxy_config: Mapping[str, object] | None = None,
    ) -> None:
        self._with_proxy = proxy
        self._profile = profile
        self._delay_levels = delay_levels
        self._extra_broker_config = dict(broker_config or {})
        self._extra_proxy_config = dict(proxy_config or {})
        self._programs: list[subprocess.Popen[Any]] = []
        self._servers: dict[str, _Server] = {}

    def __enter__(self) -> Self:
        self._dir = Path(tempfile.mkdtemp(prefix="rocketmq-"))
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill everything that was started and remove the folder."""
        for program in self._programs:
            _kill(program)
        for server in self._servers.values():
            self._kill_server(server)
        shutil.rmtree(self._dir, ignore_errors=True)

    # ------------------------------------------------------------------ addresses

    @property
    def namesrv_addr(self) -> str:
        return self._addr("namesrv")

    @property
    def broker_addr(self) -> str:
        return self._addr("broker")

    @property
    def proxy_remoting_addr(self) -> str:
        return self._addr("proxy")

    @property
    def proxy_grpc_addr(self) -> str:
        return self._addr("proxy", 1)

    def _addr(self, name: str, port: int = 0) -> str:
        if name not in self._servers:
            raise ClusterError(f"this cluster has no {name}: start it with ApacheCluster({name}=True)")
        return f"127.0.0.1:{self._servers[name].ports[port]}"

    # ------------------------------------------------------------------ topics, groups, offsets

    def create_topic(
        self, topic: str, queues: int = 8, perm: int = 6, *, order: bool = False, message_type: str | None = None
    ) -> None:
        """Create or change a topic and wait until the name server routes to it.

        ``message_type`` is NORMAL, FIFO, DELAY, TRANSACTION or MIXED; what the gRPC clients check.
        """
        ext: dict[str, object] = {
            "topic": topic,
            "defaultTopic": "TBW102",
            "readQueueNums": queues,
            "writeQueueNums": queues,
            "perm": perm,
            "topicFilterType": "SINGLE_TAG",
            "topicSysFlag": 0,
            "order": order,
        }
        if message_type is not None:
            ext["attributes"] = f"+message.type={message_type}"
        call(self.broker_addr, 17, ext).checked(f"create topic {topic}")
        self.wait_route(topic)

    def create_group(self, group: str, *, retry_max_times: int = 16, orderly: bool = False) -> None:
        """Create or change a consumer group, and its retry topic.

        Without the retry topic a group's first retry waits for the client's next look at the routes, up to 30 s.
        """
        config = {"groupName": group, "retryMaxTimes": retry_max_times, "consumeMessageOrderly": orderly}
        call(self.broker_addr, 200, body=json.dumps(config).encode()).checked(f"create group {group}")
        self.create_topic(f"%RETRY%{group}", queues=1)

    def delete_topic(self, topic: str) -> None:
        """Delete a topic at the broker and at the name server."""
        call(self.broker_addr, 215, {"topic": topic}).checked(f"delete topic {topic}")
        call(self.namesrv_addr, 216, {"topic": topic}).checked(f"delete topic {topic}")

    def route(self, topic: str, addr: str | None = None) -> dict[str, Any] | None:
        """The topic's route as a name server (or a proxy) tells it; None when it has none."""
        reply = call(addr or self.namesrv_addr, 105, {"topic": topic, "acceptStandardJsonOnly": True})
        if reply.code == 17:
            return None
        route: dict[str, Any] = json.loads(reply.checked(f"route of {topic}").body)
        return route

    def wait_route(self, topic: str, addr: str | None = None, timeout_s: float = 30.0) -> None:
        """Wait until a name server (or a proxy) tells a route for the topic."""
        self._wait(lambda: self.route(topic, addr) is not None, f"a route of {topic}", timeout_s)

    def max_offsets(self, topic: str) -> dict[int, int]:
        """By queue id, the offset the next message will get."""
        with Wire(self.broker_addr) as wire:
            replies = {queue: wire.call(30, {"topic": topic, "queueId": queue}) for queue in self._queues(topic)}
        return {queue: int(reply.checked("max offset").ext["offset"]) for queue, reply in replies.items()}

    def committed_offsets(self, group: str, topic: str) -> dict[int, int]:
        """By queue id, the offset from which the group will go on; -1 where it has committed none."""
        offsets = {}
        with Wire(self.broker_addr) as wire:
            for queue in self._queues(topic):
                ext = {"consumerGroup": group, "topic": topic, "queueId": queue, "setZeroIfNotFound": False}
                reply = wire.call(14, ext)
                offsets[queue] = -1 if reply.code == 22 else int(reply.checked("committed offset").ext["offset"])
        return offsets

    def consumer_ids(self, group: str) -> list[str]:
        """The client ids that consume in the group now."""
        reply = call(self.broker_addr, 38, {"consumerGroup": group})
        if reply.code == 1:  # "no consumer for this group"
            return []
        return sorted(json.loads(reply.checked(f"consumers of {group}").body)["consumerIdList"])

    def _queues(self, topic: str) -> range:
        route = self.route(topic)
        if route is None:
            raise ClusterError(f"topic {topic} does not exist")
        (queues,) = [data for data in route["queueDatas"] if data["brokerName"] == BROKER_NAME]
        return range(max(queues["readQueueNums"], queues["writeQueueNums"]))

    # ------------------------------------------------------------------ the broker's life

    def kill_broker(self) -> None:
        """Kill the broker as a crash would, and wait until the name server has noticed."""
        self._kill_server(self._servers["broker"])
        self._wait(lambda: not self._broker_routed(), "the name server to drop the broker", 30)

    def stop_broker(self) -> None:
        """Stop the broker in good order, which takes upstream's close to 20 s."""
        server = self._servers["broker"]
        if server.process is not None:
            server.process.terminate()
            server.process.wait(60)
        self.kill_broker()

    def restart_broker(self) -> None:
        """Start the broker again on its store and port; back when the name server routes to it.

        One that still runs is killed first.
        """
        self.kill_broker()
        self._start_broker()
        self._wait_broker()

    # ------------------------------------------------------------------ programs

    def mqadmin(self, *args: str) -> str:
        """Run upstream's admin tool against this cluster's name server; what it printed."""
        options = [*self._program_options(), f"-Drmq.logback.configurationFile={QUIET}"]
        command = java_command(classpath(), "org.apache.rocketmq.tools.command.MQAdminStartup", *args, options=options)
        if "-n" not in args:
            command += ["-n", self.namesrv_addr]
        return _completed(command, self._environment(), 60).stdout

    def java(
        self, main_class: str, *args: str, options: Iterable[str] = (), timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run one of our Java programs to its end; an exception when it fails."""
        command = program_command(main_class, *args, options=[*self._program_options(), *options])
        return _completed(command, self._environment(), timeout_s)

    def start_java(self, main_class: str, *args: str, options: Iterable[str] = ()) -> subprocess.Popen[str]:
        """Start one of our Java programs, its standard output in a pipe; killed at the latest with the cluster."""
        command = program_command(main_class, *args, options=[*self._program_options(), *options])
        program = subprocess.Popen(
            _with_parent(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=self._environment(),
            start_new_session=True,
        )
        self._programs.append(program)
        return program

    def _program_options(self) -> list[str]:
        return [*self._profile.jvm, *self._folders("programs")]

    # ------------------------------------------------------------------ starting and stopping

    def log_tail(self, lines: int = 30) -> str:
        """The end of what each server wrote: its console, then its own log file."""
        parts = []
        for server in self._servers.values():
            own = self._dir / "home" / server.name / "logs" / "rocketmqlogs" / f"{server.name}.log"
            for file in (server.log, own):
                if file.is_file():
                    end = file.read_text(errors="replace").splitlines()[-lines:]
                    parts.append("\n".join([f"--- {server.name}: {file.name}", *end]))
        return "\n".join(parts)

    def _start(self) -> None:
        (namesrv,), (broker,), (remoting, grpc) = _free_ports(0), _free_ports(-2, 0, 1)[1:2], _free_ports(0, 1)
        namesrv_config = self._dir / "namesrv.conf"
        _write_properties(namesrv_config, {"listenPort": namesrv, "bindAddress": "127.0.0.1"})
        self._add("namesrv", "namesrv.NamesrvStartup", "-c", namesrv_config, self._profile.namesrv, (namesrv,))
        self._add("broker", "broker.BrokerStartup", "-c", self._broker_config, self._profile.broker, (broker,))
        self._launch(self._servers["namesrv"])
        self._start_broker()
        self._wait_broker()
        if self._with_proxy:
            proxy_config = self._dir / "proxy.json"
            settings: dict[str, object] = {
                "rocketMQClusterName": CLUSTER_NAME,
                "namesrvAddr": self.namesrv_addr,
                "localServeAddr": "127.0.0.1",
                "remotingListenPort": remoting,
                "grpcServerPort": grpc,
                "grpcShutdownTimeSeconds": 1,
            }
            proxy_config.write_text(json.dumps(settings | self._extra_proxy_config))
            self._add("proxy", "proxy.ProxyStartup", "-pc", proxy_config, self._profile.proxy, (remoting, grpc))
            self._launch(self._servers["proxy"])
            self._wait(lambda: self._accepts("proxy"), "the proxy's ports", _START_TIMEOUT_S)

    @property
    def _broker_config(self) -> Path:
        return self._dir / "broker.conf"

    def _start_broker(self) -> None:
        # written each time, because a configuration request makes the broker write its own over it
        settings: dict[str, object] = {
            "brokerClusterName": CLUSTER_NAME,
            "brokerName": BROKER_NAME,
            "brokerId": 0,
            "brokerIP1": "127.0.0.1",
            "bindAddress": "127.0.0.1",
            "listenPort": self._servers["broker"].ports[0],
            "namesrvAddr": self.namesrv_addr,
            "storePathRootDir": self._dir / "store",
            "autoCreateTopicEnable": True,
            "autoCreateSubscriptionGroup": True,
            "enablePropertyFilter": True,
            "messageDelayLevel": self._delay_levels,
            "connectTimeoutMillis": 200,
            "diskMaxUsedSpaceRatio": 95,
        }
        _write_properties(self._broker_config, settings | dict(self._profile.store) | self._extra_broker_config)
        self._launch(self._servers["broker"])

    def _wait_broker(self) -> None:
        """Wait until the name server routes to the broker.

        A broker that finds no name server at its first look registers 10 s later; changing any of its settings makes it
        register at once.
        """

        def registered() -> bool:
            if self._broker_routed():
                return True
            call(self.broker_addr, 25, body=b"brokerPermission=6").checked("broker configuration")
            return self._broker_routed()

        self._wait(registered, "the broker to register", _START_TIMEOUT_S)

    def _broker_routed(self) -> bool:
        return self.route("TBW102") is not None

    def _accepts(self, name: str) -> bool:
        for port in self._servers[name].ports:
            socket.create_connection(("127.0.0.1", port), 1).close()
        return True

    def _add(
        self, name: str, main_class: str, option: str, config: Path, heap: tuple[str, ...], ports: tuple[int, ...]
    ) -> None:
        options = [*self._profile.jvm, *heap, *self._folders(name), "-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99"]
        command = java_command(classpath(), f"org.apache.rocketmq.{main_class}", option, str(config), options=options)
        self._servers[name] = _Server(name, command, self._dir / f"{name}.out", ports)

    def _folders(self, name: str) -> list[str]:
        home, temporary = self._dir / "home" / name, self._dir / "tmp" / name
        home.mkdir(parents=True, exist_ok=True)
        temporary.mkdir(parents=True, exist_ok=True)
        return [f"-Duser.home={home}", f"-Djava.io.tmpdir={temporary}"]

    def _environment(self) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != "NAMESRV_ADDR"}
        return inherited | {"ROCKETMQ_HOME": str(self._dir / "home")}

    def _launch(self, server: _Server) -> None:
        with server.log.open("ab") as log:
            server.process = subprocess.Popen(
                _with_parent(server.command),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                start_new_session=True,
            )

    @staticmethod
    def _kill_server(server: _Server) -> None:
        if server.process is not None:
            _kill(server.process)
            server.process = None

    def _wait(self, condition: Callable[[], bool], what: str, timeout_s: float) -> None:
        """Poll until the condition holds; a connection that fails only means not yet."""
        deadline = time.monotonic() + timeout_s
        last: object = "not yet"
        while time.monotonic() < deadline:
            try:
                if condition():
                    return
            except OSError as error:
                last = error
            for server in self._servers.values():
                if server.process is not None and server.process.poll() is not None:
                    raise ClusterError(f"the {server.name} exited with {server.process.returncode}\n{self.log_tail()}")
            time.sleep(_POLL_S)
        raise ClusterError(f"waited {timeout_s:.0f} s for {what}: {last}\n{self.log_tail()}")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _write_properties(file: Path, settings: Mapping[str, object]) -> None:
    file.write_text("".join(f"{name}={_text(value)}\n" for name, value in settings.items()))


def _free_ports(*offsets: int) -> list[int]:
    """Ports at these distances from one another that nobody listens on."""
    while True:
        base = random.choice(_PORTS)
        ports = [base + offset for offset in offsets]
        try:
            for port in ports:
                with socket.socket() as probe:
                    probe.bind(("", port))
        except OSError:
            continue
        return ports


def _with_parent(command: list[str]) -> list[str]:
    return ["sh", "-c", _DIES_WITH_PARENT, "sh", *command]


def _kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


def _completed(command: list[str], environment: dict[str, str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=timeout_s
    )
    if done.returncode:
        raise JavaError(f"{' '.join(command)}\nexited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
