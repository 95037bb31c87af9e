"""The reference services: users and orders behind the idempotency interceptor."""
