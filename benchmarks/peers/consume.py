"""The same work as PeerConsume.java, by this package: NAMESRV TOPIC GROUP MESSAGES [BATCH] [TIMEOUT_S].

Prints one JSON line: seconds from start to the first message, from there to the last, and the rate over the latter.
"""

from __future__ import annotations

import json
import sys
import time

from rocketmq_py import ConsumeFromWhere, DefaultMQPushConsumer
from rocketmq_py.cli.bench import Counting, monotonic_s


def main() -> None:
    namesrv, topic, group, wanted, batch, timeout_s = (*sys.argv[1:], *("1", "120")[len(sys.argv) - 5 :])
    counting = Counting(int(wanted))
    consumer = DefaultMQPushConsumer(
        group,
        namesrv_addr=namesrv,
        consume_from_where=ConsumeFromWhere.CONSUME_FROM_FIRST_OFFSET,
        consume_message_batch_max_size=int(batch),
    )
    consumer.subscribe(topic)
    consumer.register_message_listener(counting)
    start = monotonic_s()
    consumer.start()
    complete = counting.done.wait(float(timeout_s))
    seconds = (counting.last_s or monotonic_s()) - counting.first_s
    cpu = time.process_time()
    print(
        json.dumps(
            {
                "bench": "consume",
                "client": "rocketmq_py",
                "batch": int(batch),
                "complete": complete,
                "messages": counting.count,
                "first_message_s": round(counting.first_s - start, 3),
                "seconds": round(seconds, 3),
                "per_second": round(counting.count / seconds),
                "cpu_us_per_message": round(cpu * 1e6 / max(counting.count, 1), 2),
            }
        ),
        flush=True,
    )
    consumer.shutdown()
    sys.exit(0 if complete else 1)


if __name__ == "__main__":
    main()
