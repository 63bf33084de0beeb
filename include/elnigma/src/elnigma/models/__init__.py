"""Model structures that come with the trainer."""
