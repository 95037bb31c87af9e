"""The stores. Each module imports its own driver."""
