"""Deployments: every flow, to be run from Prefect's page, its API or a schedule."""
