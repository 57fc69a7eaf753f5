"""The adaptation server: post a few labelled examples, get a working model back.

::

    routes -> service (who, what) -> lanes (computed together) -> adapting, predicting -> engine
                      changing, looking -> store (rows, sealed)

`kshot serve` starts it; `create_app` makes the application for a server of your own.
"""

from kshot.errors import MissingExtraError

try:
    from kshot.serving.app import create_app
    from kshot.serving.server import build, run
    from kshot.serving.settings import Settings, load_settings
except ModuleNotFoundError as error:
    if str(error.name).partition(".")[0] == "kshot":
        raise
    raise MissingExtraError(str(error.name), "serve") from error

__all__ = ["Settings", "build", "create_app", "load_settings", "run"]
