"""Records ``tests/wire/golden/golden.json`` anew with upstream's own classes.

python -m tests.java.record_golden            write the file
python -m tests.java.record_golden --check    only say whether it still is what upstream writes
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.apache.jars import ROOT, JavaError, program_command

GOLDEN = ROOT / "tests" / "wire" / "golden" / "golden.json"


def record() -> dict[str, list[dict[str, Any]]]:
    """Run GoldenRecorder; what it recorded."""
    command = program_command("GoldenRecorder", options=["-Duser.timezone=UTC", "-Dfile.encoding=UTF-8"])
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    if done.returncode:
        raise JavaError(f"GoldenRecorder exited with {done.returncode}:\n{done.stderr}")
    recorded: dict[str, list[dict[str, Any]]] = json.loads(done.stdout)
    return recorded


def lasting(golden: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The entries that must be the same at each recording; a unique id is dated by the moment it is read."""
    return [entry for entry in golden["entries"] if entry["kind"] != "uniq_id"]


def main(arguments: list[str]) -> int:
    recorded = record()
    if arguments == ["--check"]:
        same = lasting(recorded) == lasting(json.loads(GOLDEN.read_text(encoding="utf-8")))
        sys.stdout.write("golden.json is what upstream writes\n" if same else "golden.json differs from upstream\n")
        return 0 if same else 1
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    GOLDEN.write_text(json.dumps(recorded, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    sys.stdout.write(f"{len(recorded['entries'])} entries written to {GOLDEN}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
