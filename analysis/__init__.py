"""What comes after training: evaluation, figures, comparison, report, exchange of weights.

Commands: ``python -m analysis.evaluate``, ``.predict``, ``.figures``, ``.sweep``, ``.report``,
``.export``; each has ``--help``. Library: ``runs.load_run``, ``probing``, ``statistics``.
"""
