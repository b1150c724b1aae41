"""Programs that use upstream's Go client, built when they are needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

_MODULE = Path(__file__).resolve().parents[1] / "go"


def go_program(package: str, folder: Path) -> Path:
    """Build a package of ``tests/go`` into a folder; a skip where Go is missing, with CI=true a failure."""
    tool = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    if tool is None:
        hint = "go not found on PATH: install Go 1.21 or newer (https://go.dev/dl)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(hint, pytrace=False)
        pytest.skip(hint)
    program = folder / "program"
    built = subprocess.run([tool, "build", "-o", str(program), package], cwd=_MODULE, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return program
