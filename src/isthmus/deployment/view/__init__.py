"""The page *Remote Agents* in Airflow's UI: read only, for one deployment, from its database."""
