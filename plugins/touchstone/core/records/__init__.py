"""What the control plane remembers: one module for each kind of record."""
