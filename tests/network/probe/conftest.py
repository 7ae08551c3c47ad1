"""The lab's packets for what is verified across them."""

from network.lab.conftest import lab, limits, packets, stack

__all__ = ["lab", "limits", "packets", "stack"]
