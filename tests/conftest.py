"""What all tests share: properties are never judged by how long they take, and Ctrl-C works."""

from __future__ import annotations

import signal

from hypothesis import HealthCheck, settings

settings.register_profile("motley", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("motley")

# A shell starts jobs in the background with SIGINT ignored, which all processes of tests inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)
