"""Access keys of the commands: from the environment, because a command line shows to everybody on the machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from rocketmq_py.errors import ConfigError

if TYPE_CHECKING:
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

ACCESS_KEY = "ROCKETMQ_ACCESS_KEY"
SECRET_KEY = "ROCKETMQ_SECRET_KEY"  # noqa: S105 - the name of a variable


def credentials() -> dict[str, Any]:
    """Settings by which a client signs its requests; none when the environment has no keys.

    Raises:
        ConfigError: it has one of the two.
    """
    access_key, secret_key = os.environ.get(ACCESS_KEY), os.environ.get(SECRET_KEY)
    if bool(access_key) is not bool(secret_key):
        raise ConfigError(f"set both {ACCESS_KEY} and {SECRET_KEY}, or none of them")
    return {"access_key": access_key, "secret_key": secret_key} if access_key and secret_key else {}


def admin_client(namesrv: str | None) -> DefaultMQAdminExt:
    """A client for administration, to be started."""
    from rocketmq_py.mq_admin_ext import DefaultMQAdminExt

    return DefaultMQAdminExt(namesrv_addr=namesrv, **credentials())
