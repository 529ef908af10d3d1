"""A run's folder: its settings, what made each folder in it, its locks, its record and its log."""
