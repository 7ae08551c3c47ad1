"""Faults: real processes, killed, cut off and restarted, and what must hold afterwards."""
