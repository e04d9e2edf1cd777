"""How bytes become records: one file per format."""
