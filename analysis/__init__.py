"""What comes after training: evaluation, figures, comparison, report, exchange of weights.

Commands: ``python -m analysis.evaluate``, ``.predict``, ``.figures``, ``.sweep``, ``.report``,
``.results``, ``.export``; each has ``--help``. Library: ``trained.load_run``, ``probing``,
``statistics``.
"""
