"""Connectivity checks from where they run to a deployment: DNS, TCP, TLS, HTTP, token."""
