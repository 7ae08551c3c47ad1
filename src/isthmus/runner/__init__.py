"""The agent's Airflow side: the fork server and what it forks. See README.md."""
