"""The plane's side of triggers: who runs which, what they are, what became of them."""
