"""Where the verbs' words go: data to standard output, messages to standard error."""

from __future__ import annotations

import json
import sys
from typing import Any


def print_json(data: Any) -> None:
    """One JSON document on standard output."""
    json.dump(data, sys.stdout, indent=2)
    sys.stdout.write("\n")


def say(text: str) -> None:
    """A message for the person, on standard error, so that --json output stays clean."""
    print(text, file=sys.stderr, flush=True)
