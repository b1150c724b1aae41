"""Commands that sign their requests, against a broker that checks them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rocketmq_py.cli.app import app
from rocketmq_py.cli.credentials import ACCESS_KEY, SECRET_KEY
from tests.embedded import EmbeddedProcess


def test_commands_sign_by_the_keys_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({"operator": "its password"}))
    with EmbeddedProcess(tmp_path / "data", "--access-keys", str(keys)) as broker:
        monkeypatch.setenv("NAMESRV_ADDR", broker.namesrv_addr)

        def run(*args: str) -> int:
            return CliRunner().invoke(app, args).exit_code

        monkeypatch.delenv(ACCESS_KEY, raising=False)
        monkeypatch.delenv(SECRET_KEY, raising=False)
        assert run("topic", "create", "orders") == 1
        monkeypatch.setenv(ACCESS_KEY, "operator")
        assert run("topic", "create", "orders") == 2
        monkeypatch.setenv(SECRET_KEY, "another password")
        assert run("topic", "create", "orders") == 1
        refused = CliRunner().invoke(app, ["send", "--topic", "orders"])
        assert (refused.exit_code, len(refused.stderr.splitlines()), caplog.messages) == (1, 1, []), "said once"
        monkeypatch.setenv(SECRET_KEY, "its password")
        assert run("topic", "create", "orders", "--attribute", "message.status=true") == 0
        assert run("send", "--topic", "orders", "--count", "2") == 0
        assert run("offset", "show", "--group", "billing", "--topic", "orders") == 0
        assert run("group", "create", "billing") == 0
        assert run("status", "--group", "billing", "--state", "CS") == 0
