"""The agent's Airflow side: a warm fork server, and the supervisors and tasks that it forks. See README.md."""
