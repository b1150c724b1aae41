"""Pytest fixtures around the real RocketMQ; tests/conftest.py registers this module."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.apache.cluster import ApacheCluster
from tests.apache.jars import missing_tools


@pytest.hookimpl(tryfirst=True)  # xdist looks for the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs Java: by a fixture, or because it runs over a server that is a Java program.

    When several workers share the tests, those of one file over one server stay together: each worker has a cluster of
    its own, and a file's cluster is started once.
    """
    for item in items:
        assert isinstance(item, pytest.Function)
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        server = parameters.get("server") or parameters.get("cluster") or ""
        if "java" in item.fixturenames or str(server).startswith("apache"):
            item.add_marker("apache")
            item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {server}"))


def require_java() -> None:
    """Skip where Java or Maven is missing; with CI=true that is a failure."""
    missing = missing_tools()
    if missing is None:
        return
    if os.environ.get("CI", "").lower() == "true":
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


@pytest.fixture(scope="session")
def java() -> None:
    """The test needs Java, but no servers."""
    require_java()


@pytest.fixture(scope="session")
def apache(java: None) -> Iterator[ApacheCluster]:
    """One real cluster for the whole session: name server, broker, proxy. Tests keep apart by topic and group."""
    with ApacheCluster(proxy=True) as cluster:
        yield cluster
