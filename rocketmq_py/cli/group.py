"""``rocketmq-py group``."""

from __future__ import annotations

from dataclasses import asdict, replace
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rocketmq_py.cli.credentials import admin_client
from rocketmq_py.cli.options import AdminNameServers, AsJson, Cluster, Yes, confirm, errors_as_messages
from rocketmq_py.cli.output import print_json, table, version
from rocketmq_py.errors import BrokerError, ConfigError, RocketMQError
from rocketmq_py.model import names
from rocketmq_py.model.admin import ConsumerConnection, ConsumeStats, SubscriptionGroupConfig
from rocketmq_py.model.codes import ResponseCode

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

app = typer.Typer(no_args_is_help=True, help="Consumer groups: list, show, create, change, delete.")

Group = Annotated[str, typer.Argument(help="Its name.", show_default=False)]
RetryMaxTimes = Annotated[
    int | None, typer.Option(min=0, help="Retries after which a message goes to the dead-letter topic.")
]
RetryQueues = Annotated[int | None, typer.Option(min=0, help="Queues of its retry topic; 0: nothing is retried.")]
Enabled = Annotated[bool | None, typer.Option("--enabled/--disabled", help="Whether it may consume at all.")]
Broadcast = Annotated[bool | None, typer.Option("--broadcast/--no-broadcast", help="Whether members may broadcast.")]
Orderly = Annotated[bool | None, typer.Option("--orderly/--no-orderly", help="Whether what is popped comes in order.")]


@app.command("list")
def list_groups(
    namesrv: AdminNameServers = None,
    every: Annotated[bool, typer.Option("--all", help="Those of the system, too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Groups with their members and what they have not consumed yet."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        found = sorted(
            {
                group
                for address in admin.all_master_addresses().values()
                for group in admin.examine_subscription_groups(address)
                if every or not _is_of_the_system(group)
            }
        )
        told = [_summary(admin, group) for group in found]
    if as_json:
        print_json(told)
    elif told:
        print(table(("group", "members", "model", "lag"), [tuple(each.values()) for each in told]))


_SYSTEM_GROUPS = frozenset(
    "TOOLS_CONSUMER FILTERSRV_CONSUMER SELF_TEST_C_GROUP CID_ONS-HTTP-PROXY CID_ONSAPI_PULL CID_ONSAPI_PERMISSION "
    "CID_ONSAPI_OWNER SCHEDULE_CONSUMER __MONITOR_CONSUMER".split()
)
"""Source: MixAll, SubscriptionGroupManager.init."""


def _is_of_the_system(group: str) -> bool:
    return group in _SYSTEM_GROUPS or group.startswith(names.SYSTEM_CONSUMER_GROUP_PREFIX)


def _summary(admin: DefaultMQAdminExt, group: str) -> dict[str, Any]:
    members = admin.examine_consumer_connection_info(group)
    stats = _stats(admin, group)
    return {
        "group": group,
        "members": 0 if members is None else len(members.connections),
        "message_model": None if members is None else members.message_model,
        "lag": None if stats is None else sum(offsets.lag for offsets in stats.offset_table.values()),
    }


def _stats(admin: DefaultMQAdminExt, group: str) -> ConsumeStats | None:
    """How far a group is; None when it has never consumed: there is no retry topic, and no broker to ask."""
    try:
        return admin.examine_consume_stats(group)
    except BrokerError as error:
        if error.code != ResponseCode.TOPIC_NOT_EXIST:
            raise
        return None


@app.command()
def show(group: Group, namesrv: AdminNameServers = None, as_json: AsJson = False) -> None:
    """How a group is configured on each broker, its members, its subscriptions, and its lag by topic."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        told = _told(admin, group)
    if as_json:
        print_json(told)
        return
    print(_config_table(told["brokers"]))
    if told["members"]:
        print(f"\n{told['message_model']}, {told['consume_type']}, {told['consume_from_where']}")
        members = [
            (each["client_id"], each["client_addr"], each["language"], version(each["version"]))
            for each in told["members"]
        ]
        print(table(("member", "address", "language", "version"), members))
        print(f"\n{table(('subscribed to', 'expression'), sorted(told['subscriptions'].items()))}")
    else:
        print("\nno members now")
    if told["lag"]:
        print(f"\n{table(('topic', 'lag'), sorted(told['lag'].items()))}")


def _told(admin: DefaultMQAdminExt, group: str) -> dict[str, Any]:
    configs = known(admin, group)
    members = admin.examine_consumer_connection_info(group)
    stats = _stats(admin, group)
    lag: dict[str, int] = {}
    for mq, offsets in {} if stats is None else stats.offset_table.items():
        lag[mq.topic] = lag.get(mq.topic, 0) + offsets.lag
    return {
        "group": group,
        "brokers": [_config_told(name, config) for name, config in configs.items()],
        **_members_told(members),
        "lag": lag,
    }


def _members_told(members: ConsumerConnection | None) -> dict[str, Any]:
    if members is None:
        return {"members": []}
    return {
        "members": [asdict(member) for member in members.connections],
        "message_model": members.message_model,
        "consume_type": members.consume_type,
        "consume_from_where": members.consume_from_where,
        "subscriptions": dict(members.subscriptions),
    }


@app.command()
def create(
    group: Group,
    namesrv: AdminNameServers = None,
    cluster: Cluster = None,
    retry_max_times: RetryMaxTimes = None,
    retry_queues: RetryQueues = None,
    enabled: Enabled = None,
    broadcast: Broadcast = None,
    orderly: Orderly = None,
    as_json: AsJson = False,
) -> None:
    """Create a group on all masters of a cluster that do not have it; when all have it, that is an error."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        names.check_group(group)
        masters = admin.master_addresses(cluster)
        lacking = [address for address in masters.values() if group not in admin.examine_subscription_groups(address)]
        if not lacking:
            raise RocketMQError(f"group {group} is there: 'group update' changes it")
        config = SubscriptionGroupConfig(group, **_changes(retry_max_times, retry_queues, enabled, broadcast, orderly))
        admin.create_and_update_subscription_group_config(lacking, config)
        _tell(admin, group, as_json, f"created group {group}")


@app.command()
def update(
    group: Group,
    namesrv: AdminNameServers = None,
    retry_max_times: RetryMaxTimes = None,
    retry_queues: RetryQueues = None,
    enabled: Enabled = None,
    broadcast: Broadcast = None,
    orderly: Orderly = None,
    as_json: AsJson = False,
) -> None:
    """Change a group on all masters that have it; what is not named stays as it is."""
    changes = _changes(retry_max_times, retry_queues, enabled, broadcast, orderly)
    with errors_as_messages(), admin_client(namesrv) as admin:
        if not changes:
            raise ConfigError(
                "nothing to change: give --retry-max-times, --retry-queues, --enabled, --broadcast or --orderly"
            )
        masters = admin.all_master_addresses()
        configs = known(admin, group)
        for name, config in configs.items():
            admin.create_and_update_subscription_group_config([masters[name]], replace(config, **changes))
        _tell(admin, group, as_json, f"changed group {group}")


@app.command()
def delete(
    group: Group,
    namesrv: AdminNameServers = None,
    keep_offsets: Annotated[
        bool, typer.Option("--keep-offsets", help="A group made anew under this name goes on where it was.")
    ] = False,
    with_topics: Annotated[
        bool, typer.Option("--with-topics", help="Its retry and dead-letter topics with their messages, too.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a group and what it has committed, on all masters that have it."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        masters = admin.all_master_addresses()
        configs = known(admin, group)
        members = admin.examine_consumer_connection_info(group)
        if members is not None:
            count = len(members.connections)
            raise RocketMQError(
                f"group {group} has {count} member{'' if count == 1 else 's'}, whose next pull would make it anew: "
                f"stop {'it' if count == 1 else 'them'} first"
            )
        what = f"group {group}{'' if keep_offsets else ' and all that it has committed'}"
        confirm(f"Delete {what}{', with its retry and dead letters' if with_topics else ''}?", yes)
        for name in configs:
            admin.delete_subscription_group(masters[name], group, remove_offset=not keep_offsets)
        topics = [names.retry_topic(group), names.dlq_topic(group)] if with_topics else []
        deleted = [topic for topic in topics if _delete_topic(admin, topic)]
    if as_json:
        print_json({"deleted": group, "brokers": list(configs), "topics": deleted})
    else:
        print(f"deleted group {group}" + "".join(f"\ndeleted topic {topic}" for topic in deleted))


class Mode(Enum):
    """How messages come to a group."""

    PULL = "pull"
    POP = "pop"


@app.command("consume-mode")
def consume_mode(
    group: Group,
    topic: Annotated[str, typer.Option(help="Of which messages.", show_default=False)],
    mode: Annotated[Mode, typer.Option(help="How they come to its members.", show_default=False)],
    namesrv: AdminNameServers = None,
    share_queues: Annotated[
        int, typer.Option(min=0, help="To pop: of how many other members each pops the queues, too; 0: of all.")
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Have a group pull or pop a topic; members that leave it to brokers (client_rebalance=False) follow in 20 s."""
    with errors_as_messages(), admin_client(namesrv) as admin:
        known(admin, group)
        admin.set_message_request_mode(topic, group, mode.name, share_queues)
    if as_json:
        print_json({"group": group, "topic": topic, "mode": mode.value, "share_queues": share_queues})
    else:
        print(f"group {group} is to {mode.value} topic {topic}")


def _delete_topic(admin: DefaultMQAdminExt, topic: str) -> bool:
    try:
        admin.delete_topic(topic)
    except BrokerError as error:
        if error.code != ResponseCode.TOPIC_NOT_EXIST:
            raise
        return False
    return True


def known(admin: DefaultMQAdminExt, group: str) -> dict[str, SubscriptionGroupConfig]:
    """A group's configuration by broker name, where it exists.

    Raises:
        RocketMQError: no broker has it.
    """
    configs = _configs(admin, group)
    if not configs:
        raise RocketMQError(f"no broker knows the group {group}: 'group list' tells which there are")
    return configs


def _changes(
    retry_max_times: int | None,
    retry_queues: int | None,
    enabled: bool | None,
    broadcast: bool | None,
    orderly: bool | None,
) -> dict[str, Any]:
    wanted = {
        "retry_max_times": retry_max_times,
        "retry_queue_nums": retry_queues,
        "consume_enable": enabled,
        "consume_broadcast_enable": broadcast,
        "consume_message_orderly": orderly,
    }
    return {name: value for name, value in wanted.items() if value is not None}


def _configs(admin: DefaultMQAdminExt, group: str) -> dict[str, SubscriptionGroupConfig]:
    """By broker name, where the group exists."""
    found = {
        name: admin.examine_subscription_groups(address).get(group)
        for name, address in admin.all_master_addresses().items()
    }
    return {name: config for name, config in found.items() if config is not None}


def _tell(admin: DefaultMQAdminExt, group: str, as_json: bool, sentence: str) -> None:
    told = [_config_told(name, config) for name, config in _configs(admin, group).items()]
    if as_json:
        print_json({"group": group, "brokers": told})
    else:
        print(f"{sentence}\n{_config_table(told)}")


def _config_told(broker: str, config: SubscriptionGroupConfig) -> dict[str, Any]:
    return {
        "broker": broker,
        "enabled": config.consume_enable,
        "broadcast": config.consume_broadcast_enable,
        "orderly": config.consume_message_orderly,
        "retry_queues": config.retry_queue_nums,
        "retry_max_times": config.retry_max_times,
    }


def _config_table(configs: list[dict[str, Any]]) -> str:
    heads = ("broker", "enabled", "broadcast", "orderly", "retry queues", "retries")
    return table(heads, [tuple(each.values()) for each in configs])
