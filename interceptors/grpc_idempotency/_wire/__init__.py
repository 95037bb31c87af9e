"""Conversions between the wire and values: bytes and metadata in, values out, and back."""
