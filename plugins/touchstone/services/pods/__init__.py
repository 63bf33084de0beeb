"""Rented pods from the control plane's side: logging in, ordering, giving back, the bill."""
