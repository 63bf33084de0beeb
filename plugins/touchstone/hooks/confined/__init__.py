"""
Work on what strangers have made, in processes that may take only so much.

Modules named ``..._program`` run in such a process and import nothing of Airflow.
"""
