"""The remote DAG processor: Airflow's own, with the plane's DAG processing API in place of the metadata database."""

from isthmus.runner.dag_processing.processing import main

__all__ = ["main"]
