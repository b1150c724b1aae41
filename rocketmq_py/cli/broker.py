"""``rocketmq-py broker``."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from rocketmq_py.broker.embedded_broker import EmbeddedBroker
from rocketmq_py.cli.signals import end_wish
from rocketmq_py.errors import ConfigError


def read_access_keys(path: Path) -> dict[str, str]:
    """Secret keys by access key, from a file: a command line shows to everybody.

    Raises:
        ConfigError: it holds no JSON object of texts.
    """
    try:
        keys = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"the access keys in {path} cannot be read: {error}") from None
    if not isinstance(keys, dict) or not all([isinstance(secret, str) for secret in keys.values()]):
        raise ConfigError(f'the access keys in {path} are no JSON object like {{"access key": "secret key"}}')
    return keys


def serve(directory: Path, *, as_json: bool, **options: Any) -> None:
    """Run a broker until a signal asks for the end; one line tells that it is ready. Options: ``EmbeddedBroker``."""
    broker = EmbeddedBroker(directory, **options)
    with end_wish() as wish, broker:
        grpc = broker.grpc_addr
        if as_json:
            ready = {"ready": True, "namesrv": broker.namesrv_addr, "broker": broker.broker_addr}
            line = json.dumps(ready if grpc is None else {**ready, "grpc": grpc})
        else:
            more = "" if grpc is None else f", gRPC {grpc}"
            line = f"ready: name server {broker.namesrv_addr}, broker {broker.broker_addr}{more}, data in {directory}"
        print(line, flush=True)
        wish.wait(threading.Event())  # nothing else ends it
