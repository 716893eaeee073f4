"""The row engine: raw bytes and a declaration to judged tables, by Arrow and DuckDB alone."""
