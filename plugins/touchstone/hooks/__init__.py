"""The only code of the Airflow side that opens connections."""
