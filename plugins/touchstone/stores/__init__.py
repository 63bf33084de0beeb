"""What stores and reads records, objects and money."""
