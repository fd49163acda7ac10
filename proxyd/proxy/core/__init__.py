"""What every stage of a request shares: the Exchange, the side of the client, refusals, answers and header rules.

May import: the rooms below proxy. Begin with `exchange`.
"""
