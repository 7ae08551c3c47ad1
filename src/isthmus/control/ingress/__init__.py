"""A cluster's ingress: HAProxy with a configuration that follows the registry."""
