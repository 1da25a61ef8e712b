"""The environment of a flow run: session, Prefect server and handling of interruptions."""
