"""``rocketmq-py topic``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rocketmq_py.cli.credentials import admin_client
from rocketmq_py.cli.options import AdminNameServers, AsJson, Cluster, Yes, confirm, errors_as_messages
from rocketmq_py.cli.output import moment, print_json, table
from rocketmq_py.errors import ConfigError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.admin import TopicConfig, perm_text
from rocketmq_py.model.codes import PermName

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

MESSAGE_TYPE = "message.type"
"""Attribute that proxies and gRPC clients go by. Source: TopicAttributes."""

app = typer.Typer(no_args_is_help=True, help="Topics: list, show, create, change, delete.")

Topic = Annotated[str, typer.Argument(help="Its name.", show_default=False)]


class Perm(Enum):
    """What may be done with a topic."""

    READ_WRITE = "rw"
    READ = "r"
    WRITE = "w"

    @property
    def bits(self) -> int:
        """As brokers have it."""
        return (PermName.READ if "r" in self.value else 0) | (PermName.WRITE if "w" in self.value else 0)


class MessageType(Enum):
    """Which messages a proxy takes. Source: TopicMessageType."""

    NORMAL = "NORMAL"
    FIFO = "FIFO"
    DELAY = "DELAY"
    TRANSACTION = "TRANSACTION"
    PRIORITY = "PRIORITY"
    MIXED = "MIXED"


Queues = Annotated[int | None, typer.Option(min=1, help="Queues on each broker, to read and to write.")]
ReadQueues = Annotated[int | None, typer.Option(min=1, help="Queues to read, if others than to write.")]
WriteQueues = Annotated[int | None, typer.Option(min=1, help="Queues to write, if others than to read.")]
PermOption = Annotated[Perm | None, typer.Option("--perm", help="What may be done with it.")]
TypeOption = Annotated[MessageType | None, typer.Option("--type", help="Which messages proxies take.")]
Attributes = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        metavar="NAME=VALUE",
        help="Such as message.status=true; without a value it is removed. May be given several times.",
        show_default=False,
    ),
]


@app.command("list")
def list_topics(
    namesrv: AdminNameServers = None,
    every: Annotated[bool, typer.Option("--all", help="Those of the system and of groups, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Names of topics."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        found = admin.fetch_all_topic_list() if every else users_topics(admin)
    if as_json:
        print_json(found)
    elif found:
        print("\n".join(found))


def users_topics(admin: DefaultMQAdminExt) -> list[str]:
    """Topics that somebody made: not the system's, the groups' retry and dead-letter topics, nor names of brokers."""
    info = admin.examine_broker_cluster_info()
    others = {*info.cluster_addr_table, *info.broker_addr_table, *names.SYSTEM_TOPICS}
    prefixes = (names.SYSTEM_TOPIC_PREFIX, *names.GROUP_TOPIC_PREFIXES)
    return [
        topic
        for topic in admin.fetch_all_topic_list()
        if topic not in others and not topic.startswith(prefixes) and not topic.endswith(names.REPLY_TOPIC_POSTFIX)
    ]


@app.command()
def show(topic: Topic, namesrv: AdminNameServers = None, as_json: AsJson = False) -> None:
    """How a topic is configured on each broker, its queues, and the groups that have consumed it."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        told: dict[str, Any] = {
            "topic": topic,
            "brokers": _configs(admin, topic),
            "queues": _queues(admin, topic),
            "groups": admin.query_topic_consume_by_who(topic),
        }
    if as_json:
        print_json(told)
        return
    print(_config_table(told["brokers"]))
    print(f"\n{_queue_table(told['queues'])}")
    print(f"\ngroups: {', '.join(told['groups']) or 'none'}")


@app.command()
def route(topic: Topic, namesrv: AdminNameServers = None, as_json: AsJson = False) -> None:
    """Which brokers have a topic, as clients are told."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        data = admin.examine_topic_route_info(topic)
    if as_json:
        print_json(asdict(data))
        return
    brokers = {broker.broker_name: broker for broker in data.broker_datas}
    rows = [
        (
            queue.broker_name, brokers[queue.broker_name].cluster if queue.broker_name in brokers else None,
            queue.read_queue_nums, queue.write_queue_nums, perm_text(queue.perm),
            _addresses(brokers[queue.broker_name].broker_addrs) if queue.broker_name in brokers else None,
        )
        for queue in data.queue_datas
    ]  # fmt: skip
    print(table(("broker", "cluster", "read", "write", "perm", "addresses (id 0: master)"), rows))


def _addresses(addresses: Mapping[int, str]) -> str:
    return ", ".join(f"{number}: {address}" for number, address in sorted(addresses.items()))


@app.command()
def stats(topic: Topic, namesrv: AdminNameServers = None, as_json: AsJson = False) -> None:
    """Ends of a topic's queues."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        queues = _queues(admin, topic)
    if as_json:
        print_json({"topic": topic, "queues": queues})
    else:
        print(_queue_table(queues))


@app.command()
def create(
    topic: Topic,
    namesrv: AdminNameServers = None,
    cluster: Cluster = None,
    queues: Queues = 8,
    read_queues: ReadQueues = None,
    write_queues: WriteQueues = None,
    perm: PermOption = Perm.READ_WRITE,
    message_type: TypeOption = None,
    attributes: Attributes = None,
    as_json: AsJson = False,
) -> None:
    """Create a topic on all masters of a cluster that do not have it; when all have it, that is an error."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        _check_users(topic)
        changes = _changes(queues, read_queues, write_queues, perm, message_type, attributes)
        masters = admin.master_addresses(cluster)
        lacking = [address for address in masters.values() if admin.examine_topic_config(address, topic) is None]
        if not lacking:
            raise RocketMQError(f"topic {topic} is there: 'topic update' changes it")
        admin.create_and_update_topic_config(lacking, TopicConfig(topic, **changes))
        _tell(admin, topic, as_json, f"created topic {topic}")


@app.command()
def update(
    topic: Topic,
    namesrv: AdminNameServers = None,
    queues: Queues = None,
    read_queues: ReadQueues = None,
    write_queues: WriteQueues = None,
    perm: PermOption = None,
    message_type: TypeOption = None,
    attributes: Attributes = None,
    as_json: AsJson = False,
) -> None:
    """Change a topic on all its masters; what is not named stays as it is.

    Messages in queues beyond a lower --read-queues are not consumed any more, and come back with them.
    """
    with errors_as_messages(), admin_client(namesrv) as admin:
        changes = _changes(queues, read_queues, write_queues, perm, message_type, attributes)
        if not changes:
            raise ConfigError(
                "nothing to change: give --queues, --read-queues, --write-queues, --perm, --type or --attribute"
            )
        for name, address in admin.masters_of_topic(topic).items():
            config = admin.examine_topic_config(address, topic)
            if config is None:
                raise RocketMQError(f"broker {name} has topic {topic} no more")
            # Attributes that stay are left out: brokers refuse to be told some of them again.
            admin.create_and_update_topic_config([address], replace(config, **{"attributes": {}, **changes}))
        _tell(admin, topic, as_json, f"changed topic {topic}")


@app.command()
def delete(topic: Topic, namesrv: AdminNameServers = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a topic with all its messages, and what groups have committed in it."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        admin.examine_topic_route_info(topic)  # one that is not there is said before the question
        confirm(f"Delete topic {topic} with all its messages?", yes)
        admin.delete_topic(topic)
    if as_json:
        print_json({"deleted": topic})
    else:
        print(f"deleted topic {topic}")


def _check_users(topic: str) -> None:
    names.check_topic(topic)
    for prefix in names.GROUP_TOPIC_PREFIXES:
        if topic.startswith(prefix):
            # Brokers take such a name, and then there is a topic of a group that perhaps is none.
            raise ConfigError(
                f"{topic} would be a topic of the group {topic.removeprefix(prefix)}: brokers make such a topic when "
                "the group needs it"
            )


def _changes(
    queues: int | None,
    read_queues: int | None,
    write_queues: int | None,
    perm: Perm | None,
    message_type: MessageType | None,
    attributes: Iterable[str] | None,
) -> dict[str, Any]:
    named = _named(attributes or (), message_type)
    wanted = {
        "read_queue_nums": read_queues or queues,
        "write_queue_nums": write_queues or queues,
        "perm": None if perm is None else perm.bits,
        "attributes": named or None,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _named(attributes: Iterable[str], message_type: MessageType | None) -> dict[str, str]:
    """Attributes that are to be changed, those without a value removed."""
    named = {} if message_type is None else {MESSAGE_TYPE: message_type.value}
    for text in attributes:
        name, equals, value = text.partition("=")
        if not name or not equals or "," in text:
            raise ConfigError(f"--attribute {text!r:.200} is not NAME=VALUE, such as message.status=true")
        if name in named:
            raise ConfigError(f"attribute {name} is given twice")
        named[name] = value
    return named


def _tell(admin: DefaultMQAdminExt, topic: str, as_json: bool, sentence: str) -> None:
    configs = _configs(admin, topic)
    if as_json:
        print_json({"topic": topic, "brokers": configs})
    else:
        print(f"{sentence}\n{_config_table(configs)}")


def _configs(admin: DefaultMQAdminExt, topic: str) -> list[dict[str, Any]]:
    found = [
        (name, admin.examine_topic_config(address, topic)) for name, address in admin.masters_of_topic(topic).items()
    ]
    return [
        {
            "broker": name,
            "read_queues": config.read_queue_nums,
            "write_queues": config.write_queue_nums,
            "perm": perm_text(config.perm),
            "attributes": dict(config.attributes),
        }
        for name, config in found
        if config is not None
    ]


def _config_table(configs: list[dict[str, Any]]) -> str:
    rows = [
        (
            each["broker"], each["read_queues"], each["write_queues"], each["perm"],
            ", ".join(f"{name}={value}" for name, value in each["attributes"].items()) or None,
        )
        for each in configs
    ]  # fmt: skip
    return table(("broker", "read queues", "write queues", "perm", "attributes"), rows)


def _queues(admin: DefaultMQAdminExt, topic: str) -> list[dict[str, Any]]:
    return [
        {
            "broker": mq.broker_name,
            "queue_id": mq.queue_id,
            "min_offset": ends.min_offset,
            "max_offset": ends.max_offset,
            "last_update_timestamp": ends.last_update_timestamp,
        }
        for mq, ends in admin.examine_topic_stats(topic).items()
    ]


def _queue_table(queues: list[dict[str, Any]]) -> str:
    rows = [
        (each["broker"], each["queue_id"], each["min_offset"], each["max_offset"],
         each["max_offset"] - each["min_offset"], moment(each["last_update_timestamp"]))
        for each in queues
    ]  # fmt: skip
    return table(("broker", "queue", "first", "end", "messages", "last stored"), rows)
