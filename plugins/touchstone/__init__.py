"""The Airflow side of Touchstone."""
