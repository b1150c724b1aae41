"""Where topics live: here. Source: the name server's ClientRequestProcessor, DefaultRequestProcessor."""

from __future__ import annotations

from typing import Any

from rocketmq_py.broker.channel import Channel, Handler, answer_when_stored, required, success
from rocketmq_py.broker.kv_config_manager import KVConfigManager
from rocketmq_py.broker.topic_config import TopicConfigManager
from rocketmq_py.errors import BrokerError
from rocketmq_py.model import fastjson
from rocketmq_py.model.codes import MASTER_ID, RequestCode, ResponseCode
from rocketmq_py.remoting.frame import RemotingCommand

_STANDARD_JSON_VERSION = 401
"""From V4_9_4 on clients read standard JSON; older ones get bare integer keys."""


class NameServer:
    """A name server that knows one broker. On the loop's thread only."""

    def __init__(
        self, topics: TopicConfigManager, kv_configs: KVConfigManager, cluster: str, broker_name: str, broker_addr: str
    ) -> None:
        self._topics = topics
        self._kv_configs = kv_configs
        self._cluster = cluster
        self._broker_name = broker_name
        self._broker_addr = broker_addr

    def handlers(self) -> dict[int, Handler]:
        """What is answered here."""
        return {
            RequestCode.GET_ROUTEINFO_BY_TOPIC: self.get_route_info_by_topic,
            RequestCode.GET_BROKER_CLUSTER_INFO: self.get_broker_cluster_info,
            RequestCode.GET_ALL_TOPIC_LIST_FROM_NAMESERVER: self.get_all_topic_list,
            RequestCode.GET_TOPICS_BY_CLUSTER: self.get_topics_by_cluster,
            RequestCode.GET_SYSTEM_TOPIC_LIST_FROM_NS: self.get_system_topic_list,
            RequestCode.DELETE_TOPIC_IN_NAMESRV: self.delete_topic,
            RequestCode.PUT_KV_CONFIG: self.put_kv_config,
            RequestCode.GET_KV_CONFIG: self.get_kv_config,
            RequestCode.DELETE_KV_CONFIG: self.delete_kv_config,
            RequestCode.GET_KVLIST_BY_NAMESPACE: self.get_kv_list_by_namespace,
            RequestCode.GET_NAMESRV_CONFIG: self.get_config,
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
        """Name all topics. Behaviour: AB-20."""
        return success(request, body=fastjson.dumps({"topicList": self._topics.topics()}))

    def get_topics_by_cluster(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name the topics of a cluster; of an unknown one there are none. Behaviour: AB-20."""
        topics = self._topics.topics() if required(request, "cluster") == self._cluster else []
        return success(request, body=fastjson.dumps({"topicList": topics}))

    def get_system_topic_list(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Name clusters and brokers, whose names upstream's brokers also use for topics. Behaviour: AB-20."""
        body = {"brokerAddr": self._broker_addr, "topicList": [self._cluster, self._broker_name]}
        return success(request, body=fastjson.dumps(body))

    def delete_topic(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Forget the route of a topic: it goes with the topic, whose broker is asked first. Behaviour: AB-05."""
        required(request, "topic")
        return success(request)

    def put_kv_config(self, channel: Channel, request: RemotingCommand) -> None:
        """Keep a text; answered once it is stored. Behaviour: AB-21."""
        stored = answer_when_stored(channel, request, success(request))
        self._kv_configs.put(*_place(request), request.ext_fields.get("value", ""), stored)

    def get_kv_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell a text. Behaviour: AB-21."""
        namespace, key = _place(request)
        value = self._kv_configs.get(namespace, key)
        if value is None:
            raise BrokerError(ResponseCode.QUERY_NOT_FOUND, f"No config item, Namespace: {namespace} Key: {key}")
        return success(request, {"value": value})

    def delete_kv_config(self, channel: Channel, request: RemotingCommand) -> None:
        """Forget a text; answered once that is stored. Behaviour: AB-21."""
        self._kv_configs.delete(*_place(request), answer_when_stored(channel, request, success(request)))

    def get_kv_list_by_namespace(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell all texts of a namespace. Behaviour: AB-21."""
        namespace = required(request, "namespace")
        table = self._kv_configs.namespace(namespace)
        if not table:
            raise BrokerError(ResponseCode.QUERY_NOT_FOUND, f"No config item, Namespace: {namespace}")
        return success(request, body=fastjson.dumps({"table": table}))

    def get_config(self, channel: Channel, request: RemotingCommand) -> RemotingCommand:
        """Tell the settings. Behaviour: AB-19."""
        return success(request, body=b"clusterTest=false\norderMessageEnable=false\n")

    def _broker(self, master_key: object) -> dict[str, Any]:
        return {
            "brokerAddrs": {master_key: self._broker_addr},
            "brokerName": self._broker_name,
            "cluster": self._cluster,
            "enableActingMaster": False,
        }


def _place(request: RemotingCommand) -> tuple[str, str]:
    return required(request, "namespace"), required(request, "key")
