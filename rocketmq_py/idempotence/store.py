"""What a store of keys is, and the one in memory."""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from enum import Enum
from typing import Protocol

from rocketmq_py.clock import Clock, SystemClock
from rocketmq_py.errors import TooManyRequestsError
from rocketmq_py.model.config import check_range
from rocketmq_py.rate_limited_log import RateLimitedLog
from rocketmq_py.runtime import Mutex

CONSUMING_MS = 15 * 60_000
"""How long a claim is believed in: as long as a listener may have a message (``consume_timeout``)."""

CONSUMED_MS = 3 * 24 * 3_600_000
"""How long a consumed key is remembered: as long as brokers keep messages by default."""

EXPIRY_MAX_MS = 2**53

MEMORY_KEYS_MAX = 100_000

_log = logging.getLogger(__name__)


class KeyState(Enum):
    """What a store answers about a key.

    CLAIMED: new, or its last claim was given up or has expired; it is the caller's now.
    """

    CLAIMED = "CLAIMED"
    CONSUMING = "CONSUMING"
    CONSUMED = "CONSUMED"


class Claim(Protocol):
    """What one listener call has claimed.

    Attributes:
        states: of every key asked for.
    """

    @property
    def states(self) -> Mapping[str, KeyState]:
        """Of every key asked for."""
        ...

    def settle(self, done: Collection[str]) -> Collection[str]:
        """Mark these claimed keys as consumed and give the other claimed ones up.

        Called once, on the thread that claimed.

        Returns:
            The keys that count as consumed. Those of ``done`` that are not among them come again.
        """
        ...


class IdempotenceStore(Protocol):
    """Where keys are remembered. Any thread, many at once."""

    def claim(self, keys: Sequence[str]) -> Claim:
        """Claim keys, each once.

        Raises:
            Exception: it cannot be told; nothing is consumed then, the messages come again later.
        """
        ...


class LeaseStore:
    """What the three have in common: a claim has a token, so that one that expired settles nothing of its successor."""

    def __init__(self, consuming_ms: int, consumed_ms: int, clock: Clock) -> None:
        check_range("consuming_ms", consuming_ms, 1, EXPIRY_MAX_MS)
        check_range("consumed_ms", consumed_ms, 1, EXPIRY_MAX_MS)
        self._consuming_ms = consuming_ms
        self._consumed_ms = consumed_ms
        self._clock = clock
        self.warnings = RateLimitedLog(clock, _log)

    def claim(self, keys: Sequence[str]) -> Claim:
        """See ``IdempotenceStore.claim``."""
        token = secrets.token_hex(8)
        return _Lease(self, token, self.take(keys, token))

    def take(self, keys: Sequence[str], token: str) -> dict[str, KeyState]:
        """Claim what is new, or whose claim has expired."""
        raise NotImplementedError

    def settle(self, token: str, done: Collection[str], given_up: Collection[str]) -> int:
        """Mark and free keys that are still this claim's; returns how many of ``done`` were not."""
        raise NotImplementedError


class _Lease:
    """A claim that ends by itself when nobody settles it."""

    def __init__(self, store: LeaseStore, token: str, states: Mapping[str, KeyState]) -> None:
        self._store = store
        self._token = token
        self.states = states

    def settle(self, done: Collection[str]) -> Collection[str]:
        """See ``Claim.settle``. What is done is done, also when that cannot be noted: to do it again helps nobody."""
        claimed = [key for key, state in self.states.items() if state is KeyState.CLAIMED]
        if not claimed:
            return done
        given_up = [key for key in claimed if key not in done]
        try:
            lost = self._store.settle(self._token, done, given_up)
        except Exception as error:  # noqa: BLE001 - border: a database or a server
            self._store.warnings.warning(
                "settle", "%s keys could not be settled, they stay claimed until that expires: %s", len(claimed), error
            )
            return done
        if lost:
            self._store.warnings.warning(
                "lost",
                "%s messages took longer than their claim lasts: others may have consumed them meanwhile; raise "
                "consuming_ms above the longest time that the listener takes", lost,
            )  # fmt: skip
        return done


class MemoryStore(LeaseStore):
    """Remembers what this process consumed, at most ``max_keys``: beyond that the oldest are forgotten.

    Args:
        consuming_ms: how long a claim is believed in; longer than any listener call may take.
        consumed_ms: how long consumed keys are remembered.
        max_keys: consumed keys remembered, and calls' keys claimed, at most; 1 to 100,000,000.
        clock: measures both times.
    """

    def __init__(
        self,
        *,
        consuming_ms: int = CONSUMING_MS,
        consumed_ms: int = CONSUMED_MS,
        max_keys: int = MEMORY_KEYS_MAX,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(consuming_ms, consumed_ms, clock or SystemClock())
        check_range("max_keys", max_keys, 1, 100_000_000)
        self._max_keys = max_keys
        self._lock = Mutex()  # guards the two below
        self._consuming: dict[str, tuple[str, int]] = {}  # token, when it expires
        self._consumed: OrderedDict[str, int] = OrderedDict()  # when it expires, ascending

    def take(self, keys: Sequence[str], token: str) -> dict[str, KeyState]:
        """See ``LeaseStore.take``."""
        with self._lock:
            now_ms = self._clock.monotonic_ms()
            self._forget_expired(now_ms, len(keys))
            states = {}
            for key in keys:
                if key in self._consumed:
                    states[key] = KeyState.CONSUMED
                elif key in self._consuming and self._consuming[key][1] > now_ms:
                    states[key] = KeyState.CONSUMING
                else:
                    self._consuming[key] = token, now_ms + self._consuming_ms
                    states[key] = KeyState.CLAIMED
            return states

    def _forget_expired(self, now_ms: int, room_for: int) -> None:
        while self._consumed and next(iter(self._consumed.values())) <= now_ms:
            self._consumed.popitem(last=False)
        if len(self._consuming) + room_for > self._max_keys:
            self._consuming = {key: claim for key, claim in self._consuming.items() if claim[1] > now_ms}
            if len(self._consuming) + room_for > self._max_keys:
                raise TooManyRequestsError(
                    f"{len(self._consuming)} keys are being consumed, max_keys is {self._max_keys}"
                )

    def settle(self, token: str, done: Collection[str], given_up: Collection[str]) -> int:
        """See ``LeaseStore.settle``."""
        lost = 0
        with self._lock:
            expires_ms = self._clock.monotonic_ms() + self._consumed_ms
            for key in (*done, *given_up):
                if self._consuming.get(key, ("", 0))[0] == token:
                    del self._consuming[key]
                elif key in done:
                    lost += 1
            for key in done:
                self._consumed.pop(key, None)
                self._consumed[key] = expires_ms
            while len(self._consumed) > self._max_keys:
                self._consumed.popitem(last=False)
        return lost
