"""Traces to take away: export of stored traces to files, and import from files.

`export` and `import_files` are the interface; `python -m transfer` is the command behind ./run.sh export and import.
"""

from transfer.errors import TransferError
from transfer.exporting import FORMATS, LAYOUTS, Exported, export
from transfer.importing import Imported, import_files

__all__ = ["FORMATS", "LAYOUTS", "Exported", "Imported", "TransferError", "export", "import_files"]
