"""State that outlives a request: rows in `sql`, memory shared by the processes of a host in `memory`.

Nothing outside this room contains SQL or maps a file.
"""
