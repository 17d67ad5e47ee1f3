"""Sets the PATH of a job: the folder of the interpreter that runs Ray comes first, wherever Ray was started."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HOOK = {"__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR": "tensorrl.sweeps.submit.interpreter.first_on_path"}
"""The environment of a job in whose processes Ray shall call `first_on_path`.

Ray's workers read their setup hook from this variable, which `ray.init` sets from `worker_process_setup_hook`. Ray's
job API takes that key too, but does not set the variable (Ray 2.60).
"""


def first_on_path() -> None:
    """Puts the folder of this interpreter at the head of PATH.

    Ray runs a job's command in a shell with the PATH that Ray itself was started with. If Ray's environment was not
    activated then, the shell does not find `tensorrl`, and finds no `python` or another one. Ray calls this function
    in the process that starts the shell.
    """
    folder, rest = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if rest.split(os.pathsep)[0] != folder:
        os.environ["PATH"] = f"{folder}{os.pathsep}{rest}"
