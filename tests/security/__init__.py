"""Security: what hostile customer code can reach on a real agent."""
