"""The record of a run beside its report: CSV always, W&B unless disabled.

W&B errors are logged, never raised: the local record is complete without it.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from lrt.cli.run_identity import RunIdentity
from lrt.config import Logging

log = logging.getLogger(__name__)

# Seconds that W&B gets to send what is left: at a run's end, and where the user stopped it.
ENDING, STOPPING = 120.0, 2.0


@contextmanager
def errors_logged() -> Iterator[None]:
    """Logs whatever W&B raises: of the network, of a full disk, of its own making."""
    try:
        yield
    except Exception as error:
        log.warning("W&B failed (%s: %s); the run goes on with the local record", type(error).__name__, error)


def wandb_mode() -> str:
    """`logging.mode` where the config does not say it: by WANDB_MODE or WANDB_DISABLED, else `offline`."""
    mode = os.environ.get("WANDB_MODE", "")
    if not mode and os.environ.get("WANDB_DISABLED", "").casefold() in ("true", "1", "yes", "on"):
        return "disabled"
    return {"": "offline", "dryrun": "offline", "run": "online"}.get(mode, mode)


BEST = {"fvu": "min", "excess": "min", "r2": "max", "cosine": "max"}
"""Whether the least or the largest value of a validation metric counts."""


class GuardedWandb(WandbLogger):
    """Lightning's logger; W&B errors are logged, never raised. A fit's name is the first part of its keys."""

    LOGGER_JOIN_CHAR = "/"

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # those of the test documents are the map's own figures, which the run logs when the map is fitted
        logged = {name: value for name, value in metrics.items() if not name.startswith("test/")}
        if logged:
            with errors_logged():
                super().log_metrics(logged, step)

    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the run has the composed settings, of which a module's are a part."""

    def finalize(self, status: str) -> None:
        with errors_logged():
            super().finalize(status)


class Tracking:
    """A run's loggers.

    folder    The run's folder.
    job       W&B's job type.
    identity  Name, group, tags and config of W&B's run.

    W&B's variables WANDB_JOB_TYPE and WANDB_DIR override `job` and `folder` there, and the tags of WANDB_TAGS
    are added.
    """

    def __init__(self, logging: Logging, folder: str, job: str, identity: RunIdentity) -> None:
        self.logging, self.folder, self.job, self.identity = logging, folder, job, identity
        self._run: Any = None

    @property
    def wandb_folder(self) -> str:
        """Where W&B's run folder is made."""
        return os.environ.get("WANDB_DIR") or self.folder

    def open_wandb(self, run_id: str | None = None) -> None:
        """Starts W&B's run. Without a key it is written offline, and the log says how to send it.

        run_id  Goes on with the run of this id, if there is one.
        """
        if self.logging.mode == "disabled":
            return
        mode, known = self.logging.mode, True
        if mode == "online":
            known = False
            with errors_logged():  # asks no server, and refuses what cannot be a key
                known = wandb.login(prompt=False, verify=False)
        if not known:
            log.warning(
                "logging.mode=online needs a W&B key and none is set (`wandb login`, or WANDB_API_KEY): the "
                "run is written offline, and `wandb sync` sends it later"
            )
            mode = "offline"
        with errors_logged():
            # Not by Lightning's logger: its `offline=True` leaves WANDB_MODE set for the next job.
            run = wandb.init(
                project=self.logging.project or "lrt",
                id=run_id,
                resume="allow" if run_id and mode == "online" else None,  # offline, W&B puts both together
                group=self.identity.group or None,
                name=self.identity.name or None,
                # W&B reads its variable where it gets None
                job_type=None if os.environ.get("WANDB_JOB_TYPE") else self.job,
                tags=self.identity.all_tags or None,
                dir=self.wandb_folder,
                mode=mode,
                config=dict(self.identity.config),
                settings=wandb.Settings(silent=True),
            )
            run.define_metric("trainer/global_step")
            run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
            self._run = run

    def close(self, error: BaseException | None) -> None:
        """Ends W&B's run, and does not wait for a server that no longer answers."""

        def finish() -> None:
            with errors_logged():
                wandb.finish(exit_code=0 if error is None else 1)

        # Lightning turns Ctrl-C into an exit of its own
        stopped = any(isinstance(e, KeyboardInterrupt) for e in (error, getattr(error, "__context__", None)))
        patience = STOPPING if stopped else ENDING
        ending = threading.Thread(target=finish, daemon=True, name="wandb")
        ending.start()
        ending.join(patience)
        if ending.is_alive():
            log.warning(
                "W&B did not end within %g s; `wandb sync` sends what lies under %s",
                patience,
                self.wandb_folder,
            )

    def loggers(self, name: str = "") -> list[Logger]:
        """Lightning's loggers; of a fit with a name, with that name before its metrics."""
        loggers: list[Logger] = [CSVLogger(self.folder, name="csv", version=name, prefix=name)]
        if self._run is not None:
            with errors_logged():
                prefix = f"{name}/" if name else ""
                for metric, best in BEST.items():
                    self._run.define_metric(f"{prefix}val/{metric}", summary=best)
                self._run.define_metric(f"{prefix}val/error_along/*", hidden=True)  # one for each vector
            loggers.append(GuardedWandb(save_dir=self.folder, experiment=self._run, prefix=name))
        return loggers

    def wandb(self, log_to: Callable[[Any], None]) -> None:
        """Calls `log_to` with the open W&B run, if there is one."""
        if self._run is not None:
            with errors_logged():
                log_to(self._run)
