"""Builds the documentation site, and draws its pictures."""
