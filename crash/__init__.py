"""The crash lab: kills two real servers again and again while clients call them, and proves that nothing went wrong."""
