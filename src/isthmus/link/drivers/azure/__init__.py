"""Azure, and whatever speaks its resource manager's API."""
