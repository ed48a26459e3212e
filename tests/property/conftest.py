"""Profiles: `ci` is short and always the same; HYPOTHESIS_PROFILE=hard looks for what is new."""

import os

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.property.machine_comparison")

_COMMON = {"deadline": None, "suppress_health_check": list(HealthCheck)}
settings.register_profile("ci", derandomize=True, max_examples=100, database=None, **_COMMON)
settings.register_profile(
    "hard", max_examples=int(os.environ.get("HYPOTHESIS_EXAMPLES", "2000")), **_COMMON
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
