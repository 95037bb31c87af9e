"""The stores: each module imports its own driver."""
