-- The data tables' schema; each table is made from its dataset's contract when it is first needed.

CREATE SCHEMA IF NOT EXISTS data;
