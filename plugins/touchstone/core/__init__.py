"""Pure decisions: no input or output, no Airflow, no clock of its own."""
