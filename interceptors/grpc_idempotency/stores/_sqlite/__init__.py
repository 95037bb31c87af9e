"""The implementation of the store in an SQLite file: connection, tables, transactions, and the thread that writes."""
