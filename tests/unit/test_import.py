from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import rocketmq_py

LOOK = """
import sys
audited = []
sys.addaudithook(lambda event, args: audited.append((event, [str(arg) for arg in args][:2]))
                 if event in ("open", "socket.__new__", "socket.connect", "os.mkdir", "subprocess.Popen", "os.system")
                 else None)
import json, logging, threading
root = logging.getLogger()
import rocketmq_py
import rocketmq_py.push_consumer, rocketmq_py.producer
print(json.dumps({
    "threads": [thread.name for thread in threading.enumerate()],
    "audited": [(event, args) for event, args in audited
                if event != "open" or any(mode in args[1] for mode in "wax+")],
    "root handlers": len(root.handlers),
    "handlers": [type(handler).__name__ for handler in logging.getLogger("rocketmq_py").handlers],
    "levels": [logging.getLogger(name).level for name in ("", "rocketmq_py")],
    "modules": sorted(sys.modules),
    "missing": [name for name in rocketmq_py.__all__ if not hasattr(rocketmq_py, name)],
}))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What an interpreter shows that has imported the package and nothing else."""
    root = Path(__file__).parents[2]
    program = f"import sys; sys.path.insert(0, {str(root)!r})\n{LOOK}"
    ran = subprocess.run(
        [sys.executable, "-B", "-W", "error", "-c", program],
        capture_output=True, text=True, check=True, timeout=60, cwd=tmp_path_factory.mktemp("elsewhere"),
    )  # fmt: skip
    assert ran.stderr == ""
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.behaviour("IM-01")
def test_importing_starts_no_thread(seen: dict[str, Any]) -> None:
    assert seen["threads"] == ["MainThread"]


@pytest.mark.behaviour("IM-01")
def test_importing_writes_no_file_opens_no_socket_and_starts_no_process(seen: dict[str, Any]) -> None:
    assert seen["audited"] == []


@pytest.mark.behaviour("IM-01")
def test_importing_configures_no_logging_beyond_a_null_handler(seen: dict[str, Any]) -> None:
    assert seen["root handlers"] == 0
    assert seen["handlers"] == ["NullHandler"]
    assert seen["levels"] == [30, 0]


@pytest.mark.behaviour("IM-02")
@pytest.mark.parametrize(
    "module", ["grpc", "google.protobuf", "typer", "rich", "lz4", "zstandard", "asyncio", "pytest"]
)
def test_importing_loads_nothing_that_is_needed_only_sometimes(seen: dict[str, Any], module: str) -> None:
    assert module not in seen["modules"]
    assert "rocketmq_py.cli" not in seen["modules"]
    assert "rocketmq_py.testing" not in seen["modules"]


@pytest.mark.behaviour("IM-02")
def test_every_public_name_is_there(seen: dict[str, Any]) -> None:
    assert seen["missing"] == []


@pytest.mark.behaviour("IM-03")
def test_what_type_checkers_see_is_what_is_imported() -> None:
    tree = ast.parse(Path(rocketmq_py.__file__).read_text())
    (seen,) = [node for node in tree.body if isinstance(node, ast.If) and not isinstance(node.test, ast.UnaryOp)]
    imports = [node for node in seen.body if isinstance(node, ast.ImportFrom)]
    assert sorted(name.name for node in imports for name in node.names) == rocketmq_py.__all__
    for node in imports:
        for name in node.names:
            module = importlib.import_module(str(node.module))
            assert getattr(rocketmq_py, name.name) is getattr(module, name.name)
    with pytest.raises(AttributeError, match="has no attribute 'DefaultMQConsumer'"):
        _ = rocketmq_py.DefaultMQConsumer  # type: ignore[attr-defined]
    assert {*rocketmq_py.__all__} <= {*dir(rocketmq_py)}


@pytest.mark.behaviour("IM-03")
def test_modules_that_type_checkers_see_are_there_behind_a_bare_import() -> None:
    """As ``except rocketmq_py.errors.BrokerError`` in a program whose only import is ``import rocketmq_py``."""
    homes = sorted({getattr(rocketmq_py, name).__module__ for name in rocketmq_py.__all__})
    for home in homes:
        assert _loaded(f"import rocketmq_py; {home}") >= {home}


LOADED = "import sys; {}; print(*sorted(name for name in sys.modules if name.startswith(('rocketmq_py.', 'grpc'))))"


def _loaded(code: str) -> set[str]:
    ran = subprocess.run(
        [sys.executable, "-c", LOADED.format(code)], capture_output=True, text=True, check=True, timeout=60
    )
    return set(ran.stdout.split())


@pytest.mark.behaviour("IM-03")
def test_importing_loads_only_what_is_asked_for() -> None:
    assert _loaded("import rocketmq_py") == set()
    assert "rocketmq_py.consumer" not in _loaded("from rocketmq_py import Message, RocketMQError")


@pytest.mark.behaviour("IM-03")
def test_the_command_that_runs_a_broker_loads_no_client() -> None:
    pytest.importorskip("typer")
    loaded = _loaded("import rocketmq_py.cli.app, rocketmq_py.cli.broker")
    assert "rocketmq_py.broker.embedded_broker" in loaded
    assert loaded.isdisjoint(
        {"rocketmq_py.client_instance", "rocketmq_py.push_consumer", "rocketmq_py.producer", "grpc"}
    )
