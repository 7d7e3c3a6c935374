"""Setup, use and evaluation of each task.

A task brings its configuration, text, network, objective and scores together.
"""
