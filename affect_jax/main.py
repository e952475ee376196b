"""Command line: `python -m affect_jax.main --config configs/X.py --workdir DIR`.

Only flags live here; the work is in `experiments/`: `train_run`, `evaluate`, `sweep`, `crossval`.
"""

import logging
import sys

import ml_collections
from absl import app, flags
from ml_collections import config_flags

from affect_jax import config as config_lib
from affect_jax import overrides, runtime
from affect_jax.errors import UserError
from affect_jax.runtime import cluster, parallel, watch, xla_flags
from data_pipelines import disk
from data_pipelines.schema import DataError

FLAGS = flags.FLAGS
MODES = ("train", "eval", "sweep", "crossval")

config_flags.DEFINE_config_file("config", None, "Config file; fields as --config.a.b=value.")
flags.DEFINE_string("workdir", None, "Folder of the run: checkpoints, metrics, report.")
flags.DEFINE_enum("mode", "train", MODES, "What to do.")
flags.DEFINE_string("coordinator", None, "HOST:PORT of process 0 of a multi-process job.")
flags.DEFINE_integer("num_processes", None, "Processes of the job.")
flags.DEFINE_integer("process_id", None, "Rank of this process, from 0.")
flags.DEFINE_enum(
    "cluster", "auto", cluster.METHODS, "Launcher that describes the job; off: train alone."
)
flags.DEFINE_integer(
    "start_timeout",
    cluster.START_TIMEOUT,
    "Seconds to wait for the other processes to start.",
    lower_bound=1,
)
flags.DEFINE_integer(
    "heartbeat_timeout",
    cluster.HEARTBEAT_TIMEOUT,
    "Seconds after which a process that does not answer is given up, and the job stops.",
    lower_bound=10,
)

log = logging.getLogger("affect_jax")


class _Loaded(flags.ArgumentParser):
    """Passes a loaded config to `--config`, with the fields of its model."""

    def __init__(self, config: ml_collections.ConfigDict):
        self._config = config

    def parse(self, argument: str) -> ml_collections.ConfigDict:
        return self._config.lock()


def _parse(argv: list[str]) -> list[str]:
    """Parse flags; turn a wrong config key or value into one readable line."""
    path = None
    for position, argument in enumerate(argv):
        name, _, value = argument.partition("=")
        if name in ("--config", "-config"):
            path = value or (argv[position + 1] if position + 1 < len(argv) else None)
    if path:
        FLAGS["config"].parser = _Loaded(overrides.load(path, argv))
    try:
        rest = FLAGS(argv)
    except (flags.Error, TypeError, ValueError) as error:
        raise config_lib.ConfigError(f"{error} (see --help)") from None
    if len(rest) > 1:
        raise config_lib.ConfigError(
            f"unexpected arguments {rest[1:]}; config fields are written --config.a.b=value"
        )
    # A model directory is evaluated without a run.
    needs_workdir = FLAGS.mode != "eval" or not (path and FLAGS.config.init_from)
    if not path or (needs_workdir and not FLAGS.workdir):
        raise config_lib.ConfigError(
            "--config and --workdir are needed, for example\n"
            "  python -m affect_jax.main --config configs/quickstart.py --workdir runs/quickstart"
        )
    overrides.settle(FLAGS.config, argv, FLAGS.mode)
    return rest


def main(_: list[str]) -> int:
    """Run one mode; return the exit status."""
    runtime.setup_logging()
    xla_flags.choose(training=FLAGS.mode != "eval")
    cluster.join(
        FLAGS.coordinator,
        FLAGS.num_processes,
        FLAGS.process_id,
        method=FLAGS.cluster,
        start_timeout=FLAGS.start_timeout,
        heartbeat_timeout=FLAGS.heartbeat_timeout,
    )
    runtime.setup_logging(is_main=parallel.is_main_process())
    with watch.over_processes(FLAGS.heartbeat_timeout):
        return _act()


def _act() -> int:
    """Do what `--mode` says; return the exit status."""
    from affect_jax.experiments import crossval, evaluate, sweep, train_run
    from affect_jax.training.stopping import Stopped

    failed = 0
    try:
        if FLAGS.mode == "eval":
            act = evaluate.extract if FLAGS.config.eval.features else evaluate.evaluate
            act(FLAGS.config, FLAGS.workdir)
        elif FLAGS.mode == "train":
            train_run.train_run(FLAGS.config, FLAGS.workdir)
        elif FLAGS.mode == "sweep":
            file = config_flags.get_config_filename(FLAGS["config"])
            failed = sweep.run(FLAGS.config, FLAGS.workdir, file)
        else:
            failed = crossval.cross_validate(FLAGS.config, FLAGS.workdir).failed
    except Stopped as stopped:
        log.info("%s", stopped)
        return stopped.exit_status
    return int(failed > 0)


def _checked_main(argv: list[str]) -> int:
    try:
        with disk.explained(FLAGS.workdir or ""):
            return main(argv)
    except (UserError, DataError) as error:
        log.error("%s", error)
        return 2
    except OSError as error:
        log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        log.error("interrupted; run the same command to resume from the last checkpoint")
        return 130


def run() -> None:
    """Run the command line; a user error ends with a message instead of a traceback."""
    try:
        app.run(_checked_main, flags_parser=_parse)
    except config_lib.ConfigError as error:
        sys.exit(f"affect_jax: {error}")


if __name__ == "__main__":
    run()
