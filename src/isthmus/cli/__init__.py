"""Commands and composition roots. See README.md."""
