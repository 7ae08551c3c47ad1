"""Versioned bodies and paths of the agent, admin and runner protocols. No IO. See README.md."""
