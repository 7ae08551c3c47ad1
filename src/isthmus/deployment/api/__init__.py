"""The HTTP side of a deployment: what agents, tasks and operators reach, and on which conditions. See ../README.md."""
