"""Training: the loop and what it needs. A script's last line hands itself to ``main``.

To read it: ``experiment`` (the settings); ``command_line`` and ``start`` (one call);
``loop`` with ``feed`` and ``step`` (the training itself) and the parts that they take: ``losses``,
``metrics``, ``optimizers``, ``schedule``, ``seeds``, ``curriculum``; ``run``, ``log``, ``history``,
``checkpoints`` and ``provenance`` (what is written), ``weights`` (what is read again);
``distribution``, ``signals`` and ``launch`` (several processes, and leaving in good order).
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.memory import wait_briefly
from training import signals

_MAIN = Path(getattr(sys.modules["__main__"], "__file__", None) or "").resolve()
if _MAIN.parent == Path(__file__).resolve().parent.parent:
    signals.listen()  # a script was started; importing PyTorch takes seconds
    wait_briefly()


def main(
    experiment_params: Callable[[], dict[str, Any]], build_model: Callable[[dict[str, Any]], Any]
) -> None:
    """Train a script's network as its command line says, then leave with an exit code."""
    from support.shell import fail, keep_output
    from training.command_line import run_script

    keep_output()
    code = 1
    try:
        signals.leave_with_launcher()
        code = run_script(experiment_params, build_model)
    except SystemExit as left:  # --help, a signal before the training began, or the script's own
        code = fail(left.code) if isinstance(left.code, str) else int(left.code or 0)
    finally:
        signals.deaf()
        code = signals.told(code)
    raise SystemExit(code)
