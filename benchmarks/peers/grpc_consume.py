"""Consumes by gRPC with this package: ENDPOINTS TOPIC GROUP MESSAGES LOOPS. Prints one JSON line.

The rate is over the time from the first message to the last, the processor time that of the whole process.
"""

from __future__ import annotations

import json
import sys
import time

from rocketmq_py import DefaultMQPushConsumer
from rocketmq_py.cli.bench import Counting, monotonic_s


def main() -> None:
    endpoints, topic, group, wanted, loops = sys.argv[1:]
    counting = Counting(int(wanted))
    consumer = DefaultMQPushConsumer(group, endpoints=endpoints, receive_loop_count=int(loops))
    consumer.subscribe(topic)
    consumer.register_message_listener(counting)
    begin = time.process_time()
    consumer.start()
    complete = counting.done.wait(120)
    seconds = (counting.last_s or monotonic_s()) - counting.first_s
    cpu = time.process_time() - begin
    consumer.shutdown()
    row = {
        "client": "rocketmq_py",
        "complete": complete,
        "messages": counting.count,
        "per_second": round(counting.count / seconds),
        "cpu_us_per_message": round(cpu * 1e6 / max(counting.count, 1), 1),
    }
    print(json.dumps(row), flush=True)
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
