"""Read-only access to the traces for an assistant, by the Model Context Protocol (MCP). See docs/mcp.md."""
