"""Airflow hooks: connections of a type each, with their forms and their Test."""
