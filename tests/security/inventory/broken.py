"""A DAG file that cannot be imported, and says why. Parsed because it names airflow and DAG."""

raise RuntimeError("canary" + "-import")
