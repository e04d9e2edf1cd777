"""What we derive from the record: status views in MongoDB, data tables in PostgreSQL. All of it disposable."""
