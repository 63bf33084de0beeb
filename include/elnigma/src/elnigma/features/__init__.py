"""Feature sets that come with the trainer."""
