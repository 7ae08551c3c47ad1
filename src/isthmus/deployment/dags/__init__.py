"""DAG processing, the plane's side: bundles, submissions, observations, claims."""
