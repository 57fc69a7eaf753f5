"""Prints what is installed as pip constraints: `make constraints` writes them to constraints.txt.

A version that needs a newer Python than kshot does is pinned on such Pythons only; older ones take what fits them.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata

OLDEST = (3, 10)
"""The oldest Python that kshot supports."""

UNPINNED = {"kshot", "pip", "setuptools", "wheel", "build", "pyproject-hooks"}


def line(distribution: metadata.Distribution) -> str:
    """`name==version`, without a local part such as +cpu, and with a marker where OLDEST cannot install it."""
    version = distribution.version.partition("+")[0]
    needs = re.search(r">=\s*(\d+)\.(\d+)", distribution.metadata.get("Requires-Python") or "")
    floor = (int(needs[1]), int(needs[2])) if needs else OLDEST
    marker = f' ; python_version >= "{floor[0]}.{floor[1]}"' if floor > OLDEST else ""
    return f"{distribution.name.lower().replace('_', '-')}=={version}{marker}"


def main() -> None:
    here = ".".join(map(str, sys.version_info[:2]))
    print(f"# The exact versions that kshot is tested with, all extras included; read off a Python {here}.")
    print("# Written by `make constraints`; used by every install of the Makefile.")
    lines = {line(d) for d in metadata.distributions() if d.name.lower().replace("_", "-") not in UNPINNED}
    print("\n".join(sorted(lines)))


if __name__ == "__main__":
    main()
