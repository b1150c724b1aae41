"""Fixtures for every test, and how many examples hypothesis tries: ``ROCKETMQ_PY_FULL=1`` for the large sizes."""

import os

from hypothesis import settings

pytest_plugins = ["tests.apache.fixtures"]

collect_ignore = ["sample_project"]  # run by tests/io/test_sample_project.py

# The same examples each time, so that a run says something about the change; the large sizes look for new ones.
settings.register_profile("default", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("full", max_examples=500, deadline=None, derandomize=False, print_blob=True)
settings.load_profile("full" if os.environ.get("ROCKETMQ_PY_FULL") == "1" else "default")
