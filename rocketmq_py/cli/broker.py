"""``rocketmq-py broker``."""

from __future__ import annotations

import json
import threading
from pathlib import Path

from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from rocketmq_py.cli.signals import end_wish


def serve(
    directory: Path, *, namesrv_port: int, broker_port: int, message_delay_level: str, synchronous: bool, as_json: bool
) -> None:
    """Run a broker until a signal asks for the end; one line tells that it is ready."""
    broker = EmbeddedBroker(
        directory,
        namesrv_port=namesrv_port,
        broker_port=broker_port,
        message_delay_level=message_delay_level,
        synchronous=synchronous,
    )
    with end_wish() as wish, broker:
        if as_json:
            line = json.dumps({"ready": True, "namesrv": broker.namesrv_addr, "broker": broker.broker_addr})
        else:
            line = f"ready: name server {broker.namesrv_addr}, broker {broker.broker_addr}, data in {directory}"
        print(line, flush=True)
        wish.wait(threading.Event())  # nothing else ends it
