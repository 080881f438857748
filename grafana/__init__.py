"""Grafana's provisioning, its dashboards, and the program that builds them."""
