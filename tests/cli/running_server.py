"""`kshot serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

import httpx


@contextmanager
def serving(*words: str, kill: bool = False) -> Iterator[tuple[httpx.Client, str | None, list[str]]]:
    """A running server: what asks it, the key that it printed, and its lines, all of them when it has ended."""
    lines: list[str] = []
    drain: threading.Thread | None = None
    process = subprocess.Popen(
        [sys.executable, "-m", "kshot", "serve", "--port", "0", *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "KSHOT_SERVE_CALIBRATION": "8"},
    )
    try:
        errors: IO[str] = process.stderr  # type: ignore[assignment]
        url = None
        while url is None:
            line = errors.readline()
            assert line, "".join(lines)
            lines.append(line)
            found = re.search(r"http://[\d.]+:\d+", line)
            url = found and found[0]
        # A pipe that nobody reads is full after some hundred lines, and its writer waits.
        drain = threading.Thread(target=lambda: lines.extend(errors))
        drain.start()
        key = next((m[0] for line in lines if (m := re.search(r"ks_[\w-]+", line))), None)
        with httpx.Client(base_url=url, timeout=60, trust_env=False) as http:
            yield http, key, lines
    finally:
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.wait(60)
        if drain is not None:
            drain.join()
        errors.close()
    assert process.returncode == (-signal.SIGKILL if kill else 0), "".join(lines)
