"""What a test does when the machine lacks something: fail in CI, skip with the reason elsewhere."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def missing(why: str) -> NoReturn:
    """End the running test: a failure where `CI` is set, a skip that says `why` elsewhere."""
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and in CI that is a failure: {why}")
    pytest.skip(why)
