"""JAX does not survive a fork: its threads are missing in the child, which then waits for ever."""

import os

from affect_jax.errors import UserError

# Processes that have opened a model; a forked child inherits the entry of its parent.
_users: set[int] = set()


def check() -> None:
    """Notes that this process uses a model.

    Raises:
      UserError: it was forked from a process that does.
    """
    pid = os.getpid()
    if _users and pid not in _users:
        raise UserError(
            f"process {pid} was forked from one that has opened a model (process {max(_users)}); "
            "JAX would hang here. Start workers without forking, "
            'multiprocessing.get_context("spawn"): a model can be pickled and handed to them. Or '
            "use threads, or open the model in the workers alone"
        )
    _users.add(pid)
