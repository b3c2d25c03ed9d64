"""SAM in the trainers that people already use, by one line: each of them in a file of its own.

``import thalweg`` imports none of them.
"""
