"""Triggers: they wait for an attempt's end, end the Airflow task, and cancel on kill."""
