"""Log lines as JSON, or as text for a terminal."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from datetime import datetime, timezone

import orjson

_OWN = frozenset(logging.LogRecord("", 0, "", 0, "", (), None).__dict__) | {"message", "asctime", "color_message"}


_NOT_SAID = ("_srcfile", "logThreads", "logProcesses", "logMultiprocessing")


class JSONLines(logging.Formatter):
    """One JSON object a record: time, level, logger, message, and what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{key: value for key, value in record.__dict__.items() if key not in _OWN},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


class Text(logging.Formatter):
    """The same for people."""

    def format(self, record: logging.LogRecord) -> str:
        more = " ".join(f"{key}={value}" for key, value in record.__dict__.items() if key not in _OWN)
        text = f"{record.levelname.lower()} {record.getMessage()} {more}".rstrip()
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


@contextlib.contextmanager
def logged(form: str) -> Iterator[None]:
    """Sends the logs of the server and of uvicorn to stderr, in one form, for the length of the block."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONLines() if form == "json" else Text())
    loggers = [logging.getLogger(name) for name in ("kshot.serving", "uvicorn.error", "uvicorn")]
    before = [(logger, logger.handlers, logger.propagate, logger.level) for logger in loggers]
    looked_up = {name: getattr(logging, name) for name in _NOT_SAID}
    try:
        for logger in loggers:
            logger.handlers, logger.propagate = [handler], False
            logger.setLevel(logging.INFO)
        loggers[-1].handlers = []
        # What a line does not say is not looked up for it (the caller costs as much as the rest).
        for name in _NOT_SAID:
            setattr(logging, name, None)
        yield
    finally:
        for logger, handlers, propagate, level in before:
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        for name, value in looked_up.items():
            setattr(logging, name, value)
