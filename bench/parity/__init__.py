"""The same DAGs under LocalExecutor and on remote agents: final states, XComs and logs, side by side."""
