"""A party in a process of its own: `federation_party.py STORE NAME ROUNDS KILLED_AT_CALL`.

It takes part until ROUNDS rounds are sealed and prints the digest of its state.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from federation_cases import Party, identity
from motley.errors import StoreUnreachableError
from motley.federation.storage.store import open_store


class Deadly:
    """Passes calls on, and kills this process at one of them."""

    def __init__(self, store: Any, at_call: int) -> None:
        self._store, self._at_call, self._calls = store, at_call, 0

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._store, name)
        if not callable(attribute):
            return attribute

        def call(*arguments: Any) -> Any:
            self._calls += 1
            if self._calls == self._at_call:
                os.kill(os.getpid(), signal.SIGKILL)
            return attribute(*arguments)

        return call


def main(url: str, name: str, rounds: int, at_call: int) -> None:
    party = Party(Deadly(open_store(url), at_call), identity(name), time.monotonic)  # type: ignore[arg-type]
    published = -1
    while party.round < rounds:
        try:
            if party.round > published:
                party.publish()
                published = party.round
            party.advance()
        except StoreUnreachableError as away:
            print(away.message)
        time.sleep(0.02)
    print(party.state.digest())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
