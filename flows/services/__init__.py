"""What a flow runs under: the session, the Prefect server, and interruptions."""
