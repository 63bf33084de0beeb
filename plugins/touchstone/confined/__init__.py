"""
Work on untrusted files, in processes with limits.

Modules named ``..._program`` run in such a process and import nothing of Airflow.
"""
