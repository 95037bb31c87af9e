"""The crash lab: kills real servers again and again under load, and proves that nothing went wrong."""
