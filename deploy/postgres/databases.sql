-- One database and one role for each part that has tables; run once, when the volume is empty.
\set ON_ERROR_STOP on
\set airflow_password `cat /run/secrets/airflow_database_password`
\set mlflow_password `cat /run/secrets/mlflow_database_password`
CREATE ROLE airflow LOGIN PASSWORD :'airflow_password';
CREATE DATABASE airflow OWNER airflow ENCODING 'UTF8' TEMPLATE template0;
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';
CREATE DATABASE mlflow OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;
REVOKE CONNECT ON DATABASE airflow FROM PUBLIC;
REVOKE CONNECT ON DATABASE mlflow FROM PUBLIC;
