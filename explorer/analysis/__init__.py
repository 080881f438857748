"""Analysis of many traces: what differs between two sets of them. docs/analysis.md explains the methods."""
