"""Users and their wallets."""
