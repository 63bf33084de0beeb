"""What drives an attempt in a pod: rent, board, attend, give back."""
