"""What the broker tells of itself, and its settings. Source: AdminBrokerProcessor, prepareRuntimeInfo."""

from __future__ import annotations

import shutil
from pathlib import Path

from rocketmq_py.broker.broker_config import BrokerConfig
from rocketmq_py.broker.broker_stats_manager import BrokerStatsManager
from rocketmq_py.broker.channel import Channel, Handler, refusal, required, success
from rocketmq_py.broker.commit_log import CommitLog
from rocketmq_py.broker.schedule_message_service import ScheduleMessageService
from rocketmq_py.clock import Clock
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import VERSION, VERSION_DESC, RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand

_NOTHING_WAITS = (
    "dispatchBehindBytes", "pageCacheLockTimeMills", "sendThreadPoolQueueSize", "sendThreadPoolQueueHeadWaitTimeMills",
    "pullThreadPoolQueueSize", "pullThreadPoolQueueHeadWaitTimeMills", "queryThreadPoolQueueSize",
    "queryThreadPoolQueueHeadWaitTimeMills", "ackThreadPoolQueueSize", "ackThreadPoolQueueHeadWaitTimeMills",
    "EndTransactionQueueSize",
)  # fmt: skip
"""Queues that upstream's brokers have; here one thread answers what comes, in its order."""


class BrokerInfoProcessor:
    """Tells of the broker. On the loop's thread only.

    Args:
        directory: of the store.
    """

    def __init__(
        self, *, clock: Clock, config: BrokerConfig, commit_log: CommitLog, schedule: ScheduleMessageService,
        stats: BrokerStatsManager, directory: Path,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._config = config
        self._commit_log = commit_log
        self._schedule = schedule
        self._stats = stats
        self._directory = directory
        self._started_ms = clock.wall_ms()

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.GET_BROKER_RUNTIME_INFO: self.get_broker_runtime_info,
            RequestCode.GET_BROKER_CONFIG: self.get_broker_config,
            RequestCode.UPDATE_BROKER_CONFIG: self.update_broker_config,
            RequestCode.GET_ALL_DELAY_OFFSET: self.get_all_delay_offset,
            RequestCode.VIEW_BROKER_STATS_DATA: self.view_broker_stats_data,
            RequestCode.CLEAN_EXPIRED_CONSUMEQUEUE: self.clean,
            RequestCode.CLEAN_UNUSED_TOPIC: self.clean,
        }

    def get_broker_runtime_info(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how the broker is. Behaviour: AB-18."""
        disk = shutil.disk_usage(self._directory)
        first_ms, _ = self._commit_log.stored_between() or (-1, -1)
        capacity = f"Total : {_readable(disk.total)}, Free : {_readable(disk.free)}."
        info = {
            **dict.fromkeys(_NOTHING_WAITS, "0"),
            **self._stats.runtime_info(),
            "bootTimestamp": str(self._started_ms),
            "brokerActive": "true",
            "brokerVersion": str(VERSION),
            "brokerVersionDesc": VERSION_DESC,
            "commitLogDirCapacity": capacity,
            "commitLogDiskRatio": str(disk.used / disk.total),
            "commitLogMaxOffset": str(self._commit_log.last_id),
            "earliestMessageTimeStamp": str(first_ms),
            "runtime": f"[ {_duration(self._clock.wall_ms() - self._started_ms)} ]",
        }
        for level, (delivered, end) in self._schedule.running_stats().items():
            info[f"scheduleMessageOffset_{level}"] = f"{delivered},{end}"
        return success(request, body=fastjson.dumps({"table": info}))

    def get_broker_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell the settings. Behaviour: AB-19."""
        return success(request, {"version": "{}"}, self._config.text().encode())

    def update_broker_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Change settings that can be changed. Behaviour: AB-19."""
        self._config.update(request.body.decode(errors="replace"))
        return success(request)

    def get_all_delay_offset(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell how far the delay levels have been delivered. Behaviour: AB-18."""
        table = {level: delivered for level, (delivered, _) in self._schedule.running_stats().items()}
        return success(request, body=fastjson.dumps({"offsetTable": table}))

    def view_broker_stats_data(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell what a counter did within the last minute, hour and day. Behaviour: AB-18."""
        name, key = required(request, "statsName"), required(request, "statsKey")
        told = self._stats.stats_data(name, key)
        if told is None:
            return refusal(request, ResponseCode.SYSTEM_ERROR, f"The stats <{name}> <{key}> not exist")
        return success(request, body=fastjson.dumps(told))

    def clean(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Say that it is done: what is deleted takes its indexes with it, and a topic its queues. Behaviour: AB-25."""
        return success(request)


def _readable(size: float) -> str:
    """Source: MixAll.humanReadableByteCount."""
    units = ["TiB", "GiB", "MiB", "KiB", "B"]
    while size >= 1024 and len(units) > 1:
        size /= 1024
        units.pop()
    return f"{size:.1f} {units[-1]}"


def _duration(ms: int) -> str:
    """Source: StoreStatsService.getFormatRuntime."""
    seconds = ms // 1_000
    hours, minutes = seconds // 3_600, seconds // 60
    return f"{hours // 24} days, {hours % 24} hours, {minutes % 60} minutes, {seconds % 60} seconds"
