"""A check against forks: JAX would hang in a forked process.

The child of a fork has none of the threads that JAX needs.
"""

import os

from affect_jax.errors import UserError

# Processes that have opened a model; a forked child inherits the entry of its parent.
_users: set[int] = set()


def check() -> None:
    """Note that this process uses a model.

    Raises:
      UserError: it was forked from a process that does.
    """
    pid = os.getpid()
    if _users and pid not in _users:
        raise UserError(
            f"process {pid} was forked from process {max(_users)}, which has opened a model, and "
            'JAX would hang here. Start workers with multiprocessing.get_context("spawn"), to '
            "which a model can be passed; or use threads; or open the model only in the workers"
        )
    _users.add(pid)
