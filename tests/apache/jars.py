"""Upstream's own jars: fetched once through Maven, kept in a cache folder, never in git."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

VERSION = "5.5.0"
GRPC_CLIENT = "rocketmq-client-java"
GRPC_CLIENT_VERSION = "5.2.0"
ROOT = Path(__file__).resolve().parents[2]
PROGRAM_FOLDERS = (ROOT / "tests" / "java", ROOT / "benchmarks" / "peers")
LAUNCH = ROOT / "tests" / "java" / "Launch.java"
QUIET = ROOT / "tests" / "java" / "quiet.logback.xml"
ARTIFACTS = ("rocketmq-namesrv", "rocketmq-broker", "rocketmq-proxy", "rocketmq-tools", "rocketmq-client")

#: what Netty and RocketMQ reach into on Java 17
JVM_OPENS = (
    "--add-exports=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-opens=java.base/java.nio=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
)
# Upstream's clients give up connecting after 3 s, and do not start then: too little where two cores run a dozen JVMs.
_PATIENCE = "-Dcom.rocketmq.remoting.client.connect.timeout=30000"

_DEPENDENCY = (
    "<dependency><groupId>org.apache.rocketmq</groupId><artifactId>{}</artifactId><version>{}</version></dependency>\n"
)
_POM = """<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>rocketmq-py</groupId><artifactId>test-jars</artifactId><version>1</version><packaging>pom</packaging>
<dependencies>{}</dependencies></project>
"""


class JavaError(Exception):
    """A Java tool failed; the message carries its output."""


def cache_dir() -> Path:
    """Where jars and classes are kept: ``ROCKETMQ_PY_TEST_CACHE``, else ``<checkout>/.cache/rocketmq-5.5.0``."""
    configured = os.environ.get("ROCKETMQ_PY_TEST_CACHE")
    folder = Path(configured).resolve() if configured else ROOT / ".cache" / f"rocketmq-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def missing_tools() -> str | None:
    """One line that says which tool is missing and how to get it; None when all are there."""
    needed = ["java", "javac"] if _lib_dir().is_dir() else ["java", "javac", "mvn"]
    missing = [tool for tool in needed if shutil.which(tool) is None]
    if not missing:
        return None
    how = "install a JDK 17 and Maven (apt install openjdk-17-jdk-headless maven)"
    return f"{', '.join(missing)} not found on PATH: {how}"


def fetch_jars() -> Path:
    """The folder with RocketMQ's runtime jars; the first call has Maven fetch them."""
    return _fetched(_lib_dir(), dict.fromkeys(ARTIFACTS, VERSION))


def grpc_client_classpath() -> str:
    """The class path of the official Java client of the gRPC protocol; the first call has Maven fetch it."""
    folder = cache_dir() / f"grpc-client-{GRPC_CLIENT_VERSION}"
    return str(_fetched(folder, {GRPC_CLIENT: GRPC_CLIENT_VERSION}) / "*")


def _fetched(target: Path, artifacts: Mapping[str, str]) -> Path:
    def fill(folder: Path) -> None:
        pom = folder / "pom.xml"
        pom.write_text(_POM.format("".join(_DEPENDENCY.format(*artifact) for artifact in artifacts.items())))
        goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
        _run([_tool("mvn"), "-q", "-B", "-f", str(pom), *goal])
        pom.unlink()

    return _make_once(target, fill)


def classpath() -> str:
    """The class path of upstream's jars."""
    return str(fetch_jars() / "*")


def compile_java(sources: Iterable[Path], jars: str | None = None) -> str:
    """Compile our own Java programs against the jars, upstream's unless told; the class path to run them with.

    The classes are kept under a hash of the sources, so that unchanged sources are compiled once.
    """
    files = sorted(sources)
    jars = jars or classpath()
    digest = hashlib.sha256(Path(jars).parent.name.encode())
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")

    def fill(folder: Path) -> None:
        options = ["-encoding", "UTF-8", "-Xlint:all,-processing,-path", "-Werror", "-proc:none"]
        _run([_tool("javac"), *options, "-cp", jars, "-d", str(folder), *map(str, files)])

    classes = _make_once(cache_dir() / f"classes-{digest.hexdigest()[:16]}", fill)
    return f"{classes}{os.pathsep}{jars}"


def java_command(class_path: str, main_class: str, *args: str, options: Iterable[str] = ()) -> list[str]:
    """The command line that runs a class of ours or of upstream's."""
    return [_tool("java"), *JVM_OPENS, _PATIENCE, *options, "-cp", class_path, main_class, *args]


def program_command(main_class: str, *args: str, options: Iterable[str] = ()) -> list[str]:
    """The command line that runs one of our own programs, each a file named after its class."""
    for folder in PROGRAM_FOLDERS:
        source = folder / f"{main_class}.java"
        if source.is_file():
            quiet = [f"-Drmq.logback.configurationFile={QUIET}", f"-Duser.home={cache_dir() / 'home'}"]
            class_path = compile_java({source, LAUNCH, *folder.glob("CommandLoop.java")})
            return java_command(class_path, "Launch", main_class, *args, options=[*quiet, *options])
    raise JavaError(f"no {main_class}.java in {' or '.join(map(str, PROGRAM_FOLDERS))}")


def _lib_dir() -> Path:
    return cache_dir() / f"lib-{VERSION}"


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise JavaError(missing_tools() or f"{name} not found on PATH")
    return path


def _run(command: list[str]) -> None:
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise JavaError(f"{' '.join(command)}\nexited with {done.returncode}:\n{done.stdout}{done.stderr}")


def _make_once(target: Path, fill: Callable[[Path], None]) -> Path:
    """Fill a folder and give it its name in one step, so that nobody ever sees half of it.

    Two processes may do it at once: the first to finish wins, the other throws its copy away.
    """
    if target.is_dir():
        return target
    folder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        fill(folder)
        folder.chmod(0o755)
        try:
            folder.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return target
