"""How often and when something is tried again, as a server of the gRPC protocol says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Source: RetryPolicy of the Java gRPC client, ExponentialBackoffRetryPolicy, CustomizedBackoffRetryPolicy.

    Attributes:
        max_attempts: deliveries of a message, or tries of a send, the first one counted.
        delays_ms: the delay after each attempt, the last one also for all after it; empty: the exponential ones.
        initial_ms, max_ms, multiplier: of the exponential delays.
    """

    max_attempts: int
    delays_ms: tuple[int, ...] = ()
    initial_ms: int = 0
    max_ms: int = 0
    multiplier: float = 1.0

    def delay_ms(self, attempt: int) -> int:
        """How long to wait after the attempt of this number, from 1. Source: getNextAttemptDelay."""
        step = max(attempt, 1) - 1
        if self.delays_ms:
            return self.delays_ms[min(step, len(self.delays_ms) - 1)]
        try:
            delay = self.initial_ms * self.multiplier**step
        except OverflowError:
            return self.max_ms
        return int(min(delay, self.max_ms))


_MINUTES = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 20, 30, 60, 120)

CONSUMER_RETRY = RetryPolicy(17, (1_000, 5_000, 10_000, 30_000, *(minutes * 60_000 for minutes in _MINUTES)))
"""A proxy's for a group whose own it does not know."""

PRODUCER_RETRY = RetryPolicy(3, initial_ms=10, max_ms=1_000, multiplier=2.0)
"""A proxy's for producers."""


@dataclass(frozen=True, slots=True)
class ConsumerTerms:
    """What a server decides about a consumer; it may change at any time.

    Attributes:
        retry: deliveries of a message and the delays between them.
        fifo: the group consumes in order.
        receive_batch_size: messages per receive.
        long_polling_ms: how long a receive may wait for messages.
    """

    retry: RetryPolicy = CONSUMER_RETRY
    fifo: bool = False
    receive_batch_size: int = 32
    long_polling_ms: int = 20_000


@dataclass(frozen=True, slots=True)
class ProducerTerms:
    """What a server decides about a producer.

    Attributes:
        retry: tries of a send and the delays between them.
        max_body_size: bytes that a body may have.
        validate_message_type: whether a topic takes only messages of its type.
    """

    retry: RetryPolicy = PRODUCER_RETRY
    max_body_size: int = 4 * 1024 * 1024
    validate_message_type: bool = True
