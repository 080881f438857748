"""Grafana: its provisioning, its dashboards, and what builds them."""
