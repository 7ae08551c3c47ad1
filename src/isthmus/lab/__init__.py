"""A local Azure network: the resource manager's API over namespaces, nftables and dnsmasq."""
