"""Where the rows of metrics go: the run's files, loggers, progress, and the history in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Any

from kshot.training.loggers import Logger, RunInfo
from kshot.training.metrics_files import MetricsFiles
from kshot.training.progress import Progress
from kshot.training.run_folder import RunFolder


class Recorder(contextlib.ExitStack):
    """Opened for the length of a training.

    Args:
        folder: of the run; None where nothing is saved.
        offsets: see `MetricsFiles`.
        loggers: started and closed here.
        progress: shows rows to the user.
        config: told to the loggers.
        step: outer steps done already.
    """

    def __init__(
        self,
        folder: RunFolder | None,
        offsets: Mapping[str, int] | None,
        loggers: Iterable[Logger],
        progress: Progress,
        config: Mapping[str, Any],
        step: int,
    ) -> None:
        super().__init__()
        self._progress = progress
        self._loggers = list(loggers)
        self._info = RunInfo(
            "run" if folder is None else folder.name, None if folder is None else folder.path, config, step
        )
        self._files = None if folder is None else MetricsFiles(folder.path, offsets)
        self.history: list[dict[str, Any]] = [] if self._files is None else self._files.history

    def __enter__(self) -> Recorder:
        if self._files is not None:
            self.callback(self._files.close)
        try:
            for logger in self._loggers:
                self.callback(logger.close)
                logger.start(self._info)
        except BaseException:
            self.close()
            raise
        return self

    def log(self, step: int, row: Mapping[str, Any]) -> None:
        """A row, without what it has no value for."""
        if self._files is None:
            self.history.append({"step": step, **row})
        else:
            self._files.log(step, row)
        for logger in self._loggers:
            logger.log(step, row)
        self._progress.report(step, row)

    def offsets(self) -> dict[str, int]:
        """How long the metrics files are, what is in them being on the disk."""
        return {} if self._files is None else self._files.offsets()
