"""The control plane as web pages."""
