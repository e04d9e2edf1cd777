"""The domain: FileJob, Dataset and the values they use. Pure: no I/O, and time is an argument."""
