"""What a handler's operation is made of: its holder, its steps, and the scope of derived keys."""
