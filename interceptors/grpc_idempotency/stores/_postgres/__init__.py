"""The PostgreSQL stores (6.2). They need the extra ``postgres``: psycopg 3 and its pool."""
