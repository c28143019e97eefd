"""The lab's server compared with others, with the same load on the same core.

``python -m bench`` runs the contest; ``python -m bench.ledger`` measures each stage.
"""
