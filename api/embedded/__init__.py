"""The parts that `ledger up` runs beside the ledger's own processes, from nothing but Python wheels."""
