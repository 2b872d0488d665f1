"""The coordinator's Flower ServerApp, the same on every grid.

The configuration of Flower's run names the study file and the result folder. `relay simulate` does not use this app,
but calls `run_study` with a display of progress of its own.
"""

from __future__ import annotations

import logging
from pathlib import Path

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from common.config.study import load_study
from common.errors import RelayError
from server.study_run import run_study

app = ServerApp()
log = logging.getLogger("relay.coordinator")
LOG = "study.log"
"""The name of the log in the result folder."""


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the study named in the run's configuration: `study` (a file), `out` (a folder), `patience` (seconds).

    `study.log` in the folder reports progress, and in its last line how the run ended. Each line has the number of its
    run, since a run that is refused writes into the same log as the run that holds the folder.
    """
    path, out = (Path(str(context.run_config[name])).expanduser() for name in ("study", "out"))
    out.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(out / LOG, encoding="utf-8")
    handler.setFormatter(logging.Formatter(f"%(asctime)s %(levelname)s {context.run_id} %(message)s"))
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        run_study(grid, load_study(path), out, beside=path.parent, patience=float(context.run_config["patience"]))
        log.info("Done.")
    except RelayError as error:
        log.error("%s", " ".join(str(error).split()))
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
