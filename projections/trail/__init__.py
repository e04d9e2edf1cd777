"""The audit trail: the log as entries that can be asked questions, in PostgreSQL."""
