"""The parts of a handler's operation: its holder, its steps, and the scope of derived keys."""
