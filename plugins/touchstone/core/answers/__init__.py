"""What the API answers: a model each, by what is asked about."""
