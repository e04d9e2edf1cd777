"""In the place of pandas, which pyarrow imports wherever it is installed: where the ledger is, there is none.

The tests need it for a file of flights only, whose package wants it. To import it takes as long as to import half of
what a process of the ledger needs.
"""

raise ImportError("the ledger has no pandas")
