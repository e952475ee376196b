"""What importing the package pulls in."""

import subprocess
import sys


def test_importing_is_cheap():
    code = (
        "import sys, affect_jax.runtime, affect_jax.report; "
        "print([m for m in ('matplotlib', 'tqdm', 'tensorboardX', 'google.protobuf') "
        "if m in sys.modules])"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert output.stdout.strip() == "[]"
