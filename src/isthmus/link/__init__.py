"""Private links: what they should look like, what they look like, and the steps in between."""
