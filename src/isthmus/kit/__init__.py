"""Runtime primitives that know nothing of the domain. See README.md."""
