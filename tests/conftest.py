"""What all tests share: properties are never judged by how long they take."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

settings.register_profile("motley", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("motley")
