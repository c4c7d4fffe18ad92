"""`motley doctor`: is this machine ready to train?"""

from __future__ import annotations

import sys
from dataclasses import asdict

from motley.cli.output import print_json, say
from motley.doctor import diagnose

MARKS = {True: "ok", False: "FAIL", None: "-"}


def run(*, as_json: bool) -> None:
    """Prints each check; exits with 1 if one failed."""
    checks = diagnose(say)
    if as_json:
        print_json([asdict(check) for check in checks])
    else:
        for check in checks:
            print(f"{MARKS[check.ok]:>4}  {check.name}: {check.detail}")
            if check.ok is False and check.remedy:
                print(f"      {check.remedy}")
    if any(check.ok is False for check in checks):
        sys.exit(1)
