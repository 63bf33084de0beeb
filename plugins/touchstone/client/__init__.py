"""A client of an installation: Airflow's REST API and Touchstone's own, over HTTP."""
