"""`motley`: what the command runs. It imports hardly anything itself, so that Ctrl-C ends it well
from the very start."""

from __future__ import annotations

import sys

from motley.errors import MotleyError

INTERRUPTED = 130
"""What typer makes of Ctrl-C, as shells do."""


def run() -> None:
    """The entry point: an error of ours becomes one message and its exit code."""
    try:
        from motley.cli.app import app

        app(prog_name="motley")
    except MotleyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.remedy:
            print(error.remedy, file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("stopped.", file=sys.stderr)
        raise
    except BrokenPipeError:
        sys.exit(1)


if __name__ == "__main__":
    run()
