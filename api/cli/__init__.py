"""The command line: `ledger`."""
