from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
