"""How long a broker keeps messages back, by level. Source: MessageStoreConfig, ScheduleMessageService."""

from __future__ import annotations

import re

from rocketmq_py.errors import ConfigError

DEFAULT_DELAY_LEVELS = "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"
"""The first is level 1. Source: MessageStoreConfig.messageDelayLevel."""

LEVELS_MAX = 64
"""Levels that may be configured; upstream sets no limit."""

_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_LEVEL = re.compile(r"([0-9]{1,9})([smhd])")


def parse_delay_levels(text: str) -> list[int]:
    """Delays in ms, level 1 first, out of ``1s 5s 10s``. Source: ScheduleMessageService.parseDelayLevel.

    Raises:
        ConfigError: it is no such list.
    """
    if not isinstance(text, str):
        raise ConfigError(f"the delay levels are one text like '1s 5s 1m 2h', not {text!r}")
    levels = [int(match[1]) * _UNITS_MS[match[2]] if (match := _LEVEL.fullmatch(each)) else -1 for each in text.split()]
    if not 0 < len(levels) <= LEVELS_MAX or min(levels) < 0:
        raise ConfigError(f"the delay levels are a list of 1 to {LEVELS_MAX} like '1s 5s 1m 2h', not {text!r}")
    return levels
