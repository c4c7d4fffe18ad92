"""No process of a run outlives the one that started it."""

from __future__ import annotations

import os
import signal
import threading

CHECK_S = 1.0


def follow_parent() -> None:
    """Ends this process, as by SIGTERM, within a second of its parent's end."""
    parent = os.getppid()
    never = threading.Event()

    def watch() -> None:
        while os.getppid() == parent:
            never.wait(CHECK_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="follow-parent", daemon=True).start()
