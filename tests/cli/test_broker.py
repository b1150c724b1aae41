"""``rocketmq-py broker`` as a person or a script runs it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rocketmq_py import ConfigError, DefaultMQProducer, Message
from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from tests.administration import ClusterError, call, free_ports
from tests.embedded import EmbeddedProcess


@pytest.mark.behaviour("EB-20")
def test_it_says_where_it_listens_serves_and_carries_on_where_it_ended(tmp_path: Path) -> None:
    with EmbeddedProcess(tmp_path / "data") as broker:
        broker.create_topic("topic", queues=1)
        with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
            producer.send(Message("topic", b"first"))
        assert broker.stop() == 0
        ready = broker.start()
        addresses = {"namesrv": broker.namesrv_addr, "broker": broker.broker_addr, "grpc": broker.grpc_addr}
        assert ready == {"ready": True, **addresses}
        with socket.create_connection(("127.0.0.1", int(broker.grpc_addr.rpartition(":")[2])), 5):
            pass
        with DefaultMQProducer("producers", namesrv_addr=broker.namesrv_addr) as producer:
            assert producer.send(Message("topic", b"second")).queue_offset == 1


@pytest.mark.behaviour("EB-20")
def test_port_0_takes_any_free_one_and_people_get_a_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rocketmq_py", "broker", "--data", str(tmp_path), "--namesrv-port", "0"]
    with subprocess.Popen([*command, "--broker-port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            words = process.stdout.readline().split()
            assert words[:3] == ["ready:", "name", "server"]
            assert call(words[3].rstrip(","), 206).code == 0
            assert str(tmp_path) in words
            assert "gRPC" not in words, "only who asks for it has it"
        finally:
            process.terminate()
        assert process.wait(30) == 0


def refused(*args: str) -> str:
    """What a start that fails says."""
    command = [sys.executable, "-m", "rocketmq_py", "broker", "--namesrv-port", "0", "--broker-port", "0", *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode in (1, 2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


@pytest.mark.behaviour("EB-20")
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path) -> None:
    with EmbeddedProcess(tmp_path / "data") as broker:
        assert "is in use by another broker" in refused("--data", str(tmp_path / "data"))
        taken = broker.broker_addr.rpartition(":")[2]
        said = refused("--data", str(tmp_path / "other"), "--broker-port", taken)
        assert f"cannot listen at 127.0.0.1:{taken}" in said
        assert "choose another port" in said
        said = refused("--data", str(tmp_path / "other"), "--grpc-port", taken)
        assert said.splitlines() == [
            f"error: cannot listen at 127.0.0.1:{taken}: [Errno 98] Address already in use; choose another port"
        ]
    elsewhere = refused("--data", str(tmp_path / "other"), "--host", "192.0.2.1")  # an address for documentation only
    assert "choose another address" in elsewhere
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "store.db").write_bytes(b"no database " * 500)
    assert "It is no store or is damaged" in refused("--data", str(tmp_path / "foreign"))
    assert "delay levels" in refused("--data", str(tmp_path / "other"), "--message-delay-level", "5 parsecs")
    (tmp_path / "file").write_text("")
    assert "file" in refused("--data", str(tmp_path / "file"))


@pytest.mark.behaviour("EB-20")
def test_a_burst_of_signals_ends_it_all_the_same(tmp_path: Path) -> None:
    for _ in range(3):
        with EmbeddedProcess(tmp_path / "data") as broker:
            process = broker.process
            assert process is not None
            for number in range(20):
                process.send_signal(signal.SIGINT if number % 2 else signal.SIGTERM)
            process.communicate(timeout=20)  # a hang would be the error


@pytest.mark.behaviour("EB-20")
def test_two_equal_ports_are_one_line(tmp_path: Path) -> None:
    (port,) = free_ports(0)
    command = [sys.executable, "-m", "rocketmq_py", "broker", "--data", str(tmp_path)]
    ports = ["--namesrv-port", str(port), "--broker-port", str(port)]
    done = subprocess.run([*command, *ports], capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert f"cannot listen at 127.0.0.1:{port}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.behaviour("EB-20")
@pytest.mark.parametrize("settings", [{"namesrv_port": 99_999}, {"broker_port": "1"}, {"message_delay_level": ["1s"]}])
def test_what_is_no_port_or_level_is_a_config_error(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        EmbeddedBroker(tmp_path, **settings)


@pytest.mark.behaviour("EB-20")
def test_a_connection_that_is_open_does_not_keep_it_from_ending(tmp_path: Path) -> None:
    with EmbeddedProcess(tmp_path / "data") as broker:
        host, port = broker.broker_addr.split(":")
        with socket.create_connection((host, int(port))):
            assert broker.stop() == 0


@pytest.mark.behaviour("EB-20")
def test_a_broker_that_cannot_start_leaves_no_lock_behind(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused("--data", str(data), "--broker-port", str(taken.getsockname()[1]))
    with EmbeddedProcess(data) as broker:
        assert broker.process is not None


@pytest.mark.behaviour("EB-20")
def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "apsw.py").write_text("raise ImportError('not there')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(__file__).parents[2]}"}
    command = [sys.executable, "-m", "rocketmq_py", "broker", "--data", str(tmp_path / "data"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment)
    assert done.returncode == 1
    assert (
        done.stderr.strip()
        == "error: the embedded broker needs apsw: pip install 'rocketmq-py[broker]' (in a clone '.[broker]')"
    )


def test_the_helper_of_these_tests_tells_a_start_that_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ClusterError, match="did not start"), EmbeddedProcess(tmp_path / "file"):
        pass
