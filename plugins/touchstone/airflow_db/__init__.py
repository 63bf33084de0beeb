"""The only package that knows Airflow's tables; its tests fail when a new Airflow differs."""
