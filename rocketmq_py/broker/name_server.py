"""Where topics live: here. Source: the name server's ClientRequestProcessor, DefaultRequestProcessor."""

from __future__ import annotations

from typing import Any

from rocketmq_py.broker.channel import Channel, Handler, required, success
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import MASTER_ID, RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand

_STANDARD_JSON_VERSION = 401
"""From V4_9_4 on clients read standard JSON; older ones get bare integer keys."""


class NameServer:
    """A name server that knows one broker. On the loop's thread only."""

    def __init__(self, topics: TopicConfigManager, cluster: str, broker_name: str, broker_addr: str) -> None:
        self._topics = topics
        self._cluster = cluster
        self._broker_name = broker_name
        self._broker_addr = broker_addr

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self.get_route_info_by_topic,
            RequestCode.GET_BROKER_CLUSTER_INFO: self.get_broker_cluster_info,
            RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self.get_all_topic_list,
        }

    def get_route_info_by_topic(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a topic's route."""
        name = required(request, "topic")
        config = self._topics.topic(name)
        if config is None:
            raise BrokerError(ResponseCode.TOPIC_NOT_EXIST, f"No topic route info in name server for the topic: {name}")
        standard = (
            request.version >= _STANDARD_JSON_VERSION
            or request.ext_fields.get("acceptStandardJsonOnly", "").lower() == "true"
        )
        route = {
            "brokerDatas": [self._broker(str(MASTER_ID) if standard else MASTER_ID)],
            "filterServerTable": {},
            "queueDatas": [
                {
                    "brokerName": self._broker_name,
                    "perm": config.perm,
                    "readQueueNums": config.readQueueNums,
                    "topicSysFlag": config.topicSysFlag,
                    "writeQueueNums": config.writeQueueNums,
                }
            ],
        }
        return success(request, body=fastjson.dumps(route))

    def get_broker_cluster_info(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell which brokers there are; integer keys are always bare here."""
        info = {
            "brokerAddrTable": {self._broker_name: self._broker(MASTER_ID)},
            "clusterAddrTable": {self._cluster: [self._broker_name]},
        }
        return success(request, body=fastjson.dumps(info))

    def get_all_topic_list(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name all topics."""
        return success(request, body=fastjson.dumps({"topicList": self._topics.topics()}))

    def _broker(self, master_key: object) -> dict[str, Any]:
        return {
            "brokerAddrs": {master_key: self._broker_addr},
            "brokerName": self._broker_name,
            "cluster": self._cluster,
            "enableActingMaster": False,
        }
