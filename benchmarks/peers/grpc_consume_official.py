"""The same work as grpc_consume.py, by the official Python client: ENDPOINTS TOPIC GROUP MESSAGES.

It writes its log into the home folder: run it with HOME set to a place for that.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

from rocketmq import (  # noqa: E402
    ClientConfiguration,
    ConsumeResult,
    Credentials,
    FilterExpression,
    MessageListener,
    PushConsumer,
)


class _Counting(MessageListener):  # type: ignore[misc]
    """Counts until all came."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.count = 0
        self.first_s = self.last_s = 0.0
        self.done = threading.Event()
        self._lock = threading.Lock()

    def consume(self, message: Any) -> Any:
        with self._lock:
            self.count += 1
            if self.count == 1:
                self.first_s = time.monotonic()
            if self.count == self.wanted:
                self.last_s = time.monotonic()
                self.done.set()
        return ConsumeResult.SUCCESS


def main() -> None:
    endpoints, topic, group, wanted = sys.argv[1:]
    counting = _Counting(int(wanted))
    configuration = ClientConfiguration(endpoints, Credentials())
    consumer = PushConsumer(configuration, group, counting, {topic: FilterExpression()})
    begin = time.process_time()
    consumer.startup()
    complete = counting.done.wait(240)
    seconds = (counting.last_s or time.monotonic()) - counting.first_s
    cpu = time.process_time() - begin
    row = {
        "client": "official",
        "complete": complete,
        "messages": counting.count,
        "per_second": round(counting.count / seconds),
        "cpu_us_per_message": round(cpu * 1e6 / max(counting.count, 1), 1),
    }
    print(json.dumps(row), flush=True)
    os._exit(0 if complete else 1)  # its threads would keep the process


if __name__ == "__main__":
    main()
