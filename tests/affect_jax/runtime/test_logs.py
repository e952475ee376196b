"""Log lines: one format, without the chatter of libraries."""

import logging

import pytest

from affect_jax.runtime import quiet_orbax, setup_logging


@pytest.fixture
def restored_logging():
    import absl.logging

    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    verbosity = absl.logging.get_verbosity()
    yield
    root.handlers[:], root.level = handlers, level
    absl.logging.set_verbosity(verbosity)
    for name in ("jax", "orbax", "grain", "affect_jax", "data_pipelines"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("restored_logging")
def test_logs_are_one_format_without_chatter(capsys):
    import absl.logging

    absl.logging.use_absl_handler()
    setup_logging()
    setup_logging()  # Lines must not come twice
    logging.getLogger("affect_jax.training.loop").info("epoch %d", 3)
    logging.getLogger("data_pipelines").warning("bad record")
    for name in ("orbax.checkpoint", "jax._src.dispatch", "some_library"):
        logging.getLogger(name).info("chatter")
    absl.logging.info("chatter")
    absl.logging.warning("matters")
    quiet_orbax()
    absl.logging.warning("CheckpointManagerOptions.read_only=True, setting create=False.")
    absl.logging.warning("Given directory is read only=%s", "runs/a")
    absl.logging.warning('Type handler registry type "%s" overriding %s', "jax.Array", "Array")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == [
        "epoch 3", "warning: bad record", "warning: matters",
    ]  # fmt: skip
    assert all(len(line.split(" ")[0]) == len("12:34:56") for line in lines)


@pytest.mark.usefixtures("restored_logging")
def test_other_processes_log_warnings_only(capsys):
    setup_logging(is_main=False)
    logging.getLogger("affect_jax").info("same in every process")
    logging.getLogger("affect_jax").error("not the same")
    assert capsys.readouterr().err.splitlines()[0].endswith("error: not the same")
