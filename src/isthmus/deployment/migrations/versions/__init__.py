"""The revisions, oldest first: ``v0001`` created the tables."""
