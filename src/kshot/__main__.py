"""`python -m kshot` is `kshot`."""

from __future__ import annotations

from kshot.cli import main

if __name__ == "__main__":
    main()
