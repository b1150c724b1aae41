"""A real Apache RocketMQ on loopback: a name server, a broker and, when asked, a proxy, each a JVM of its own."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.administration import BROKER_NAME, CLUSTER_NAME, Administration, ClusterError, free_ports, text_of
from tests.apache.jars import QUIET, JavaError, classpath, java_command, program_command

#: 18 delay levels, as a broker needs them; a consumer's first retry uses the third
FAST_DELAYS = "1s 1s 1s 1s " + " ".join(["2s"] * 14)

_START_TIMEOUT_S = 90.0
_POLL_S = 0.05
#: runs a command that dies with us: it is killed, with its process group, when the pipe on its standard input closes;
#: who reads its output sees the end of it when the command ends
_DIES_WITH_PARENT = 'exec 3<&0 </dev/null; { cat; kill -9 0; } <&3 3<&- >/dev/null & exec "$@" 3<&-'


@dataclass(frozen=True)
class Profile:
    """What a cluster is tuned for."""

    jvm: tuple[str, ...]
    namesrv: tuple[str, ...]
    broker: tuple[str, ...]
    proxy: tuple[str, ...]
    store: Mapping[str, object]


# What 5.5.0 does while there is nothing to do: its timer wheel, 37 MB, is flushed every second (a third of
# a core); until metrics of transactions are flushed for the first time a thread goes round without a pause; so does,
# for good, the one that gathers the ends of transactions, when its interval has passed since the last one. What was not
# gathered is asked for again, after 30 s at the earliest: so long only tests of the large sizes look.
_NO_IDLE_WORK = {
    "timerFlushIntervalMs": 60_000,
    "transactionMetricFlushInterval": 500,
    "transactionOpBatchInterval": 3_000 if os.environ.get("ROCKETMQ_PY_FULL") == "1" else 100_000_000,
}

#: starts fast and stays small
TESTS = Profile(
    jvm=("-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dtls.server.mode=disabled"),
    namesrv=("-Xmx128m", "-XX:MaxDirectMemorySize=64m"),
    # Every thread that handles pops or timers keeps a buffer of 4 MiB: with 256 MiB pops end in silence.
    broker=("-Xmx384m", "-XX:MaxDirectMemorySize=768m"),
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


@dataclass
class _Server:
    """One of the cluster's JVMs: how to start it, and the process while it runs."""

    name: str
    command: list[str]
    log: Path
    ports: tuple[int, ...]
    process: subprocess.Popen[bytes] | None = field(default=None)


class ApacheCluster(Administration):
    """Name server, broker ``broker-a`` and, with ``proxy=True``, a proxy with its remoting and its gRPC port.

    Ports are chosen per run and clients are told loopback addresses only; upstream itself opens a broker's replication
    port and a proxy's two ports on every address. All that is written lies in one temporary folder, removed at the end.

    Args:
        options: further options for every server's JVM.
        tls: with what to talk to servers that ``options`` made take TLS only.
    """

    def __init__(
        self,
        *,
        proxy: bool = False,
        profile: Profile = TESTS,
        delay_levels: str = FAST_DELAYS,
        broker_config: Mapping[str, object] | None = None,
        options: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        proxy_config: Mapping[str, object] | None = None,
    ) -> None:
        self._with_proxy = proxy
        self._profile = profile
        self._delay_levels = delay_levels
        self._extra_broker_config = dict(broker_config or {})
        self._extra_proxy_config = dict(proxy_config or {})
        self._options = tuple(options)
        self.tls = tls
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

    def kill_proxy(self) -> None:
        """Kill the proxy as a crash would."""
        self._kill_server(self._servers["proxy"])

    def start_proxy(self) -> None:
        """Start the proxy again on its ports; back when it accepts."""
        self._launch(self._servers["proxy"])
        self._wait(lambda: self._accepts("proxy"), "the proxy's ports", _START_TIMEOUT_S)

    # ------------------------------------------------------------------ programs

    def mqadmin(self, *args: str) -> str:
        """Run upstream's admin tool against this cluster's name server; what it printed.

        Files that it writes (consumerStatus does) come to lie in the cluster's folder.
        """
        options = [*self._program_options(), f"-Drmq.logback.configurationFile={QUIET}"]
        command = java_command(classpath(), "org.apache.rocketmq.tools.command.MQAdminStartup", *args, options=options)
        if "-n" not in args:
            command += ["-n", self.namesrv_addr]
        return _completed(command, self._environment(), 60, cwd=self._dir).stdout

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
        (namesrv,), (broker,), (remoting, grpc) = free_ports(0), free_ports(-2, 0, 1)[1:2], free_ports(0, 1)
        namesrv_config = self._dir / "namesrv.conf"
        write_properties(namesrv_config, {"listenPort": namesrv, "bindAddress": "127.0.0.1"})
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
                "useEndpointPortFromRequest": True,  # so that a relay may lie before it
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
        write_properties(self._broker_config, self._broker_settings())
        self._launch(self._servers["broker"])

    def _broker_settings(self) -> dict[str, object]:
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
            **_NO_IDLE_WORK,
        }
        return settings | dict(self._profile.store) | self._extra_broker_config

    def _wait_broker(self) -> None:
        """Wait until the name server routes to the broker.

        A broker that finds no name server at its first look registers 10 s later; changing any of its settings makes it
        register at once.
        """

        def registered() -> bool:
            if self._broker_routed():
                return True
            self.call(self.broker_addr, 25, body=b"brokerPermission=6").checked("broker configuration")
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
        options = [
            *self._profile.jvm, *heap, *self._folders(name), "-Drocketmq.broker.diskSpaceWarningLevelRatio=0.99",
            *self._options,
        ]  # fmt: skip
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


def write_properties(file: Path, settings: Mapping[str, object]) -> None:
    file.write_text("".join(f"{name}={text_of(value)}\n" for name, value in settings.items()))


def _with_parent(command: list[str]) -> list[str]:
    return ["sh", "-c", _DIES_WITH_PARENT, "sh", *command]


def _kill(process: subprocess.Popen[Any]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
    process.wait()


def _completed(
    command: list[str], environment: dict[str, str], timeout_s: float, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment, timeout=timeout_s, cwd=cwd
    )
    if done.returncode:
        raise JavaError(f"{' '.join(command)}\nexited with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done
