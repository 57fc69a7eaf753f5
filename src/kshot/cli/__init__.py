"""The command line: `kshot COMMAND ...`, one thin file a command.

Everything heavy (torch, Pillow, matplotlib) is imported inside the command that needs it, so that `kshot --help` is
quick.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the `kshot` script: runs the command in `sys.argv` and exits with its code."""
    from kshot.cli.allocator import raise_thresholds
    from kshot.cli.app import app

    # This process is kshot's own, so that its allocator may be tuned; before torch allocates anything.
    raise_thresholds()
    app(prog_name="kshot")
