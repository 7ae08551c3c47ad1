"""A plane and its agents as real processes that a test can break. See README.md."""
