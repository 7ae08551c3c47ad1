"""Microsoft.Resources: what resources are kept in, and what is asked about all of them."""
