"""The plane's side of one Airflow deployment. See README.md."""
