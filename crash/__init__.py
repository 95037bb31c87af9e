"""The crash lab: kills two real servers again and again under load, and proves that nothing went wrong."""
