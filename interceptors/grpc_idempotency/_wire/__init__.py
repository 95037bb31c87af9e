"""What goes over the wire: bytes and metadata in, values out, and back."""
