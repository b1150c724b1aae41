"""``python -m rocketmq_py`` is the command line."""

from __future__ import annotations

import sys


def main() -> None:
    """Run ``rocketmq-py``."""
    try:
        from rocketmq_py.cli.app import app
    except ModuleNotFoundError as error:
        if error.name != "typer":
            raise
        sys.exit("the command line needs typer: pip install 'rocketmq-py[cli]' (in a clone '.[cli]')")
    app()


if __name__ == "__main__":
    main()
