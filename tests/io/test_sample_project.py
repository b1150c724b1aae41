"""The pytest plugin as users have it: out of the built wheel, in a project and an interpreter of its own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RUN = "import sys, pytest; code = pytest.main(sys.argv[1:]); print(sys.modules['rocketmq_py'].__file__); sys.exit(code)"


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel installs. A wheel of pure Python is installed by unpacking it."""
    built, target = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(built)],
        cwd=ROOT, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = built.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def _example() -> str:
    """The test that the documentation prints."""
    page = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"^```python\n([^`]*^def test_an_order[^`]*)^```$", page, re.MULTILINE)
    assert isinstance(example, str)
    return example


def run_pytest(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    project = shutil.copytree(ROOT / "tests" / "sample_project", folder / "project")
    (project / "test_example.py").write_text(_example(), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-P", "-c", RUN, "-p", "no:cacheprovider", "-W", "error", "-rA", "--tb=short", *arguments],
        cwd=project, capture_output=True, text=True, timeout=240,
        env={**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{project}", "PYTEST_ADDOPTS": ""},
    )  # fmt: skip


@pytest.mark.behaviour("TP-01", "TP-02")
def test_a_project_of_its_own_passes_with_the_fixtures_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    ran = run_pytest(installed, tmp_path)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.splitlines()[-1].startswith(f"{installed}{os.sep}rocketmq_py"), "it is the wheel's package"
    assert "8 passed" in ran.stdout
    assert "rocketmq-py" in ran.stdout.split("plugins:")[1].splitlines()[0]


@pytest.mark.behaviour("TP-03")
def test_what_a_test_leaves_behind_is_its_error_and_no_other_tests(installed: Path, tmp_path: Path) -> None:
    ran = run_pytest(installed, tmp_path, "wrong.py")
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "2 passed, 1 error" in ran.stdout
    (line,) = [line for line in ran.stdout.splitlines() if line.startswith("the test left behind: ")]
    assert "thread ConsumeMessageThread_forgotten_1" in line
    assert sys.platform != "linux" or "connection to port" in line
    assert "ERROR wrong.py::test_that_forgets_its_consumer" in ran.stdout
