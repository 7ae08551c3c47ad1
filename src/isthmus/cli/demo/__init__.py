"""``make demo``: the product's main story on one machine, told as it happens, with nothing left behind.

As root it is the whole story (``story``): a plane and two customers in networks of a local Azure, from the public path
to a private link. Without root, or without the programs that packets need, it is the public part (``publicly``).

State is in ``.demo/``: ``plane/`` (ours alone), ``postgres/``, a directory an agent (see ``places``), ``summary.json``.
Agents are what they would be elsewhere: separate processes that inherit no environment, have a token, a URL and a
certificate, and their own copy of the DAGs and the data.

Invariants: exit code 0 means that every step and every task ended as it should; no process, namespace or rule is left,
however this ends.
"""
