"""Analysis of many traces: what differs between two sets, and where they spend their time. See docs/analysis.md."""
