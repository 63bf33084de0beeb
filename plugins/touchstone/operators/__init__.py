"""Operators of the DAG ``touchstone``: the only code that knows Airflow's exceptions."""
