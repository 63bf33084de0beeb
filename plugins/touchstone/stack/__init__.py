"""Touchstone on one machine: Airflow, its stores, MLflow and one agent under one supervisor."""
