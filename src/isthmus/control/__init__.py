"""The control plane: organization, clusters and their ingress, deployments, links, operators, audit."""
