"""Text, addresses, paths and numbers: pure functions and values that know nobody else in the project;
and the loop that every background job runs in.

May import: the standard library, idna and gevent. Begin with `text`, which most rooms use.
"""
