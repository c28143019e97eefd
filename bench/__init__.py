"""The lab's server against others, on the same load and the same core.

``python -m bench`` runs the contest, ``python -m bench.ledger`` takes the lab apart.
"""
