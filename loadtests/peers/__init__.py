"""The lab's server against others, on the same load and the same core.

``python -m loadtests.peers`` runs the contest, ``python -m loadtests.peers._ledger``
takes the lab apart. Names start with ``_`` so that Locust does not collect the files.
"""
