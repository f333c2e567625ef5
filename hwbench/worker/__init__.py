"""Inside the worker process: open the artifact, apply, run, score. One job, then exit."""
