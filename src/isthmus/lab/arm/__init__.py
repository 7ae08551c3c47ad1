"""The resource manager's protocol, once for all kinds of resources."""
