"""The machine under the lab: namespaces, interfaces, nftables, resolvers and relays that look like a picture."""
