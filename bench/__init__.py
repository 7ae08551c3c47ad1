"""Side-by-side benchmarks of Airflow's executors. See README.md."""
