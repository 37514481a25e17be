"""What comes after training: evaluation, figures, comparison, report, exchange of weights.

Commands and library: docs/analysis.md.
"""
