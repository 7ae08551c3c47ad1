"""Drivers: one folder a cloud."""
