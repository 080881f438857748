"""The MCP server of `./run.sh mcp`, on stdin and stdout, until stdin is closed."""

from explorer.assistant.server import create_server
from explorer.database import DATABASE_URI, Database
from explorer.store import ADDRESS, Store

create_server(Database(DATABASE_URI), Store(ADDRESS)).run()
