"""The agent's control process: enrols, claims, heartbeats, settles, and guards the agent token.

Imports no Airflow. See README.md.
"""
