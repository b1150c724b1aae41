"""Keys in Redis."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from rocketmq_py.clock import SystemClock
from rocketmq_py.errors import ConfigError, MissingExtraError
from rocketmq_py.idempotence.store import CONSUMED_MS, CONSUMING_MS, KeyState, LeaseStore

TIMEOUT_S = 5
"""How long a Redis given by its URL may be silent, unless the URL says ``socket_timeout=``: a consume thread waits."""

# One script each, because the look and the change must be one step. Clients may send both twice.
_REDIS_TAKE = """
local found = redis.call('GET', KEYS[1])
if not found then
    redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
    return 'CLAIMED'
end
if found == ARGV[1] then return 'CLAIMED' end
if string.sub(found, 1, 9) == 'consumed:' then return 'CONSUMED' end
return 'CONSUMING'
"""
_REDIS_SETTLE = """
local found = redis.call('GET', KEYS[1])
if found == 'consumed:' .. ARGV[1] then return 1 end
if found ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then redis.call('DEL', KEYS[1])
else redis.call('SET', KEYS[1], 'consumed:' .. ARGV[1], 'PX', ARGV[2]) end
return 1
"""


class RedisStore(LeaseStore):
    """Remembers keys in Redis, for consumers on many machines. Needs the extra ``redis``.

    A claim and its mark are each one step there; they are as durable as that Redis is.

    Args:
        redis: a ``redis.Redis``, which stays yours to close, or a URL such as ``redis://127.0.0.1:6379/0``; waits for
            that end after 5 s unless it says ``?socket_timeout=``. Give your own client a ``socket_timeout``, too.
        prefix: put before every key; one per group.
        consuming_ms: how long a claim is believed in; longer than any listener call may take.
        consumed_ms: how long consumed keys are remembered.

    Raises:
        MissingExtraError: a URL was given, and the package ``redis`` is not installed.
    """

    def __init__(
        self,
        redis: Any,
        *,
        prefix: str = "rocketmq_py:",
        consuming_ms: int = CONSUMING_MS,
        consumed_ms: int = CONSUMED_MS,
    ) -> None:
        super().__init__(consuming_ms, consumed_ms, SystemClock())
        self._own = isinstance(redis, str)
        self._redis: Any = _redis_client(redis) if isinstance(redis, str) else redis
        if not callable(getattr(self._redis, "register_script", None)):
            raise ConfigError(f"redis is a redis.Redis or a URL, not {redis!r}")
        self._prefix = prefix
        self._take_script = self._redis.register_script(_REDIS_TAKE)
        self._settle_script = self._redis.register_script(_REDIS_SETTLE)

    def close(self) -> None:
        """Close the connections of a store that was made with a URL."""
        if self._own:
            self._redis.close()

    def take(self, keys: Sequence[str], token: str) -> dict[str, KeyState]:
        """See ``LeaseStore.take``."""
        answers = self._run(self._take_script, [(key, token, self._consuming_ms) for key in keys])
        return {
            key: KeyState(answer.decode() if isinstance(answer, bytes) else answer)
            for key, answer in zip(keys, answers, strict=True)
        }

    def settle(self, token: str, done: Collection[str], given_up: Collection[str]) -> int:
        """See ``LeaseStore.settle``."""
        calls = [(key, token, self._consumed_ms) for key in done] + [(key, token, 0) for key in given_up]
        return self._run(self._settle_script, calls)[: len(done)].count(0)

    def _run(self, script: Any, calls: Sequence[tuple[str, str, int]]) -> list[Any]:
        with self._redis.pipeline(transaction=False) as pipeline:
            for key, *arguments in calls:
                script(keys=[self._prefix + key], args=arguments, client=pipeline)
            answers: list[Any] = pipeline.execute()
        return answers


def _redis_client(url: str) -> Any:
    try:
        import redis
    except ImportError:
        raise MissingExtraError(
            "RedisStore needs redis: pip install 'rocketmq-py[redis]' (in a clone '.[redis]')"
        ) from None
    # What the URL says comes first.
    return redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S)
