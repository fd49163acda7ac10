"""What all stages of a request share: the Exchange, the client's side, refusals, answers and header rules.

May import: the rooms below proxy. Begin with `exchange`.
"""
